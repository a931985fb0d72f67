"""The properties of a task that the model is built from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ['TaskSpec', 'check_task_ids']


@dataclass(frozen=True)
class TaskSpec:
    """One task of a multi-task run; its position in the list of all tasks is its global task id.

    Arguments:
        name: what people call the task, such as ``'MiniGrid-Empty-8x8-v0'``.
        observation_shape: shape of one observation: ``(O,)`` for a vector, ``(C, H, W)`` for an image.
        action_space_size: number of discrete actions.

    Raises:
        ValueError: another observation shape, or fewer than one action.
    """

    name: str
    observation_shape: tuple[int, ...]
    action_space_size: int

    def __post_init__(self) -> None:
        object.__setattr__(self, 'observation_shape', tuple(int(size) for size in self.observation_shape))
        if len(self.observation_shape) not in (1, 3) or min(self.observation_shape) < 1:
            raise ValueError(
                f'task {self.name!r}: observation_shape must be (O,) for a vector or (C, H, W) for an image, '
                f'got {self.observation_shape}'
            )
        if self.action_space_size < 1:
            raise ValueError(f'task {self.name!r}: action_space_size must be at least 1, got {self.action_space_size}')


def check_task_ids(task_ids: Sequence[int], num_tasks: int) -> list[int]:
    """Check ``task_ids`` and return them as a list of plain ints.

    Arguments:
        task_ids: global ids of the tasks that one rank trains; may be empty.
        num_tasks: number of tasks of the whole run.

    Raises:
        ValueError: an id that is not an integer, out of range, or listed twice.
    """
    checked: list[int] = []
    for task_id in task_ids:
        if isinstance(task_id, bool) or int(task_id) != task_id:
            raise ValueError(f'task_ids: {task_id!r} is not an integer')
        if not 0 <= task_id < num_tasks:
            raise ValueError(f'task_ids: {task_id} is out of range; valid ids are 0 to {num_tasks - 1}')
        if task_id in checked:
            raise ValueError(f'task_ids: {task_id} is listed twice')
        checked.append(int(task_id))
    return checked
