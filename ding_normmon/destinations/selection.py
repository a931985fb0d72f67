"""Which figures of a record a dashboard gets when there are too many tasks to look at."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ding_normmon.core.figures import Figures
from ding_normmon.core.metric_names import of_all_tasks, task_in

__all__ = ['FEW_TASKS', 'MANY_TASKS', 'WORST_TASKS', 'for_dashboard', 'worst_tasks']

FEW_TASKS = 12
"""Up to so many tasks a dashboard shows every figure of each task; above, the main ones."""

MANY_TASKS = 64
"""Up to so many tasks a dashboard shows all of them."""

WORST_TASKS = 16
"""Above, it shows the figures over all tasks and so many single ones."""

_NONE = Figures()


def worst_tasks(scalars: Mapping[str, float], count: int = WORST_TASKS) -> list[int]:
    """Return the tasks that stand out most, the worst first; equal ones by ascending id.

    A task with non-finite entries comes before all others. The rest are ordered by how far a task's figure is from the
    median of the same figure over the tasks, in units of the median distance, at its most extreme figure.

    >>> worst_tasks({'grad/head_task0/_total_norm': 1., 'grad/head_task1/_total_norm': 9.,
    ...              'grad/head_task2/_total_norm': 1.1, 'monitor/nonfinite/logits/value_task2': 3.}, count=2)
    [2, 1]
    """
    families: dict[str, dict[int, float]] = {}
    worst: dict[int, float] = {}
    for name, value in scalars.items():
        task = task_in(name)
        if task is None:
            continue
        worst.setdefault(task, 0.0)
        if name.startswith('monitor/nonfinite/') or not math.isfinite(value):
            worst[task] = math.inf
        else:
            families.setdefault(of_all_tasks(name), {})[task] = value
    for family in families.values():
        middle = _median(list(family.values()))
        spread = _median([abs(value - middle) for value in family.values()])
        # Where most tasks are equal any other stands out, in proportion to the figure itself.
        unit = spread or abs(middle) or 1.0
        for task, value in family.items():
            worst[task] = max(worst[task], abs(value - middle) / unit)
    return sorted(worst, key=lambda task: (-worst[task], task))[:count]


def for_dashboard(
    scalars: Mapping[str, float],
    figures: Figures = _NONE,
    *,
    many: int = MANY_TASKS,
    count: int = WORST_TASKS,
    few: int = FEW_TASKS,
) -> dict[str, float]:
    """Return the figures that a dashboard gets, so that their number stays within what one can look at.

    Up to ``few`` tasks that is all of them. Above, what is no detail of a single task by its declaration; above
    ``many``, the figures over all tasks and those of the worst ones. What is left out of this record then depends on
    the record. ``ctx.monitor_records`` and the history file have everything.

    Arguments:
        scalars: of one record.
        figures: declares what is a detail; what nobody declares is none.
        many: up to so many tasks each one is shown.
        count: tasks that are shown above that.
        few: up to so many tasks nothing is left out.

    >>> scalars = {f'grad/head_task{task}/_total_norm': float(task) for task in range(5)} | {'grad/encoder': 1.}
    >>> sorted(for_dashboard(scalars, many=4, count=1))
    ['grad/encoder', 'grad/head_task0/_total_norm']
    """
    task_of = {name: task for name in scalars if (task := task_in(name)) is not None}
    tasks = set(task_of.values())
    if len(tasks) <= min(few, many):
        return dict(scalars)
    shown = set(worst_tasks(scalars, count)) if len(tasks) > many else tasks
    lesser = len(tasks) > few
    return {
        name: value
        for name, value in scalars.items()
        if name not in task_of or (task_of[name] in shown and not (lesser and figures.is_detail(name)))
    }


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
