"""Which figures of a record a dashboard gets when there are too many tasks to look at."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

__all__ = ['MANY_TASKS', 'WORST_TASKS', 'for_dashboard', 'worst_tasks']

MANY_TASKS = 64
"""Up to so many tasks a dashboard shows all of them."""

WORST_TASKS = 16
"""Above, it shows the figures over all tasks and so many single ones."""

_TASK = re.compile(r'_task(\d+)(?=/|$)')


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
        match = _TASK.search(name)
        if match is None:
            continue
        task = int(match.group(1))
        worst.setdefault(task, 0.0)
        if name.startswith('monitor/nonfinite/') or not math.isfinite(value):
            worst[task] = math.inf
        else:
            families.setdefault(name[: match.start()] + name[match.end() :], {})[task] = value
    for family in families.values():
        middle = _median(list(family.values()))
        spread = _median([abs(value - middle) for value in family.values()])
        # Where most tasks are equal any other stands out, in proportion to the figure itself.
        unit = spread or abs(middle) or 1.0
        for task, value in family.items():
            worst[task] = max(worst[task], abs(value - middle) / unit)
    return sorted(worst, key=lambda task: (-worst[task], task))[:count]


def for_dashboard(scalars: Mapping[str, float], many: int = MANY_TASKS, count: int = WORST_TASKS) -> dict[str, float]:
    """Return the figures that a dashboard gets: all of them up to ``many`` tasks, else aggregates and the worst tasks.

    A figure of a task that is not among the worst is left out of this record; ``ctx.monitor_records`` has it.

    Arguments:
        scalars: of one record.
        many: up to so many tasks nothing is left out.
        count: tasks that are shown above that.

    >>> scalars = {f'grad/head_task{task}/_total_norm': float(task) for task in range(5)} | {'grad/encoder': 1.}
    >>> sorted(for_dashboard(scalars, many=4, count=1))
    ['grad/encoder', 'grad/head_task0/_total_norm']
    """
    task_of = {name: int(match.group(1)) for name in scalars if (match := _TASK.search(name)) is not None}
    if len(set(task_of.values())) <= many:
        return dict(scalars)
    shown = set(worst_tasks(scalars, count))
    return {name: value for name, value in scalars.items() if name not in task_of or task_of[name] in shown}


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
