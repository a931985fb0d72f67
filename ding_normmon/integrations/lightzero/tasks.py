"""Which tasks a LightZero policy trains: their number in the whole run, and the global ids of this rank."""

from __future__ import annotations

from typing import Any

from torch import nn

from ding_normmon.integrations.adapter import Adapter

__all__ = ['global_task_ids', 'known_task_ids', 'number_of_tasks']

_LISTS = ('head_value_multi_task', 'prediction_networks')
"""What only a multi-task model has."""


def number_of_tasks(model: nn.Module) -> int | None:
    """Return the number of tasks of the whole run, or None for a single-task model.

    The lists of heads say how many there are unless the tasks share one head; then only ``task_num`` does. A
    single-task model may have a ``task_num`` too, so it counts only if there are such lists.
    """
    lists = [entry for name in _LISTS if isinstance(entry := getattr(model, name, None), nn.ModuleList)]
    if not lists:
        return None
    return int(getattr(model, 'task_num', 0)) or max(len(entry) for entry in lists)


def global_task_ids(policy: Any, num_tasks: int | None) -> tuple[int, ...] | None:
    """Return the ids of the tasks that this rank trains, None if the policy does not declare them.

    LightZero gives a rank a range of neighbouring tasks: ``task_id`` is the first of them.
    """
    first, count = getattr(policy, 'task_id', None), getattr(policy, 'task_num_for_current_rank', None)
    if num_tasks is None or not isinstance(first, int) or not isinstance(count, int):
        return None
    ids = tuple(range(first, first + count))
    # Some configurations leave the number of all tasks where that of this rank should be.
    return tuple(task_id for task_id in ids if task_id < num_tasks) or None


def known_task_ids(adapter: Adapter) -> tuple[int, ...]:
    """Return the ids of the tasks that this rank trains, according to an adapter."""
    return tuple(range(adapter.num_tasks or 0)) if adapter.task_ids is None else adapter.task_ids
