"""Selects the figures of a record for a dashboard when there are too many tasks to show everything."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

from ding_normmon.core.figures import Figures
from ding_normmon.core.metric_names import of_all_tasks, task_in

__all__ = ['FEW_TASKS', 'MANY_TASKS', 'WORST_TASKS', 'for_dashboard', 'worst_tasks']

FEW_TASKS = 12
"""Up to this many tasks a dashboard shows every figure of each task; above, only the main ones."""

MANY_TASKS = 64
"""Up to this many tasks a dashboard shows all of them."""

WORST_TASKS = 16
"""Above ``MANY_TASKS`` it shows the figures over all tasks and this many single tasks."""

_NONE = Figures()


def worst_tasks(scalars: Mapping[str, float], count: int = WORST_TASKS) -> list[int]:
    """Return the tasks that stand out most, the worst first; ties by ascending id.

    Tasks with non-finite entries come first. The others are ordered by their most extreme figure: its distance from the
    median of that figure over the tasks, in units of the median distance.

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
        middle = statistics.median(family.values())
        spread = statistics.median(abs(value - middle) for value in family.values())
        # If most tasks are equal the spread is 0; then the distance counts in proportion to the figure itself.
        unit = spread or abs(middle) or 1.0
        for task, value in family.items():
            worst[task] = max(worst[task], abs(value - middle) / unit)
    return sorted(worst, key=lambda task: (-worst[task], task))[:count]


def for_dashboard(scalars: Mapping[str, float], figures: Figures = _NONE) -> dict[str, float]:
    """Return the figures for a dashboard, few enough to look at.

    Up to 12 tasks these are all figures. Above, per-task figures declared as details are left out. Above 64, only the
    figures over all tasks and those of the 16 worst tasks are returned; the worst tasks are chosen anew for every
    record. ``ctx.monitor_records`` and the history file hold everything.

    Arguments:
        scalars: the scalars of one record.
        figures: declarations of the figures; a figure without one is not a detail.

    >>> scalars = {f'grad/head_task{task}/_total_norm': float(task) for task in range(65)} | {'grad/encoder': 1.}
    >>> shown = for_dashboard(scalars)
    >>> len(shown), 'grad/encoder' in shown, 'grad/head_task64/_total_norm' in shown
    (17, True, True)
    """
    task_of = {name: task for name in scalars if (task := task_in(name)) is not None}
    tasks = set(task_of.values())
    if len(tasks) <= FEW_TASKS:
        return dict(scalars)
    shown = set(worst_tasks(scalars)) if len(tasks) > MANY_TASKS else tasks
    return {
        name: value
        for name, value in scalars.items()
        if name not in task_of or (task_of[name] in shown and not figures.is_detail(name))
    }
