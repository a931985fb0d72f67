"""One module per task behind the interface of a single module.

LightZero's world model calls ``self.head_value(x, ...)`` and knows of one task only. A :class:`PerTaskModules` in its
place forwards the call to the module of the selected task, so the world model's ``forward`` and ``compute_loss`` need
no change.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

__all__ = ['PerTaskModules', 'TaskSelection']


class TaskSelection:
    """The currently selected task; all :class:`PerTaskModules` of a model share one object.

    Arguments:
        num_tasks: number of tasks of the whole run.
    """

    def __init__(self, num_tasks: int) -> None:
        self.num_tasks = num_tasks
        self._task_id: int | None = None

    @property
    def is_set(self) -> bool:
        """Whether a task is selected."""
        return self._task_id is not None

    @property
    def task_id(self) -> int:
        """The selected global task id.

        Raises:
            RuntimeError: no task is selected.
        """
        if self._task_id is None:
            raise RuntimeError('the multi-task model was called without a task: use `with world_model.bound(task_id):`')
        return self._task_id

    def select(self, task_id: int | None) -> int | None:
        """Select a task (None: no task) and return the one selected before.

        Raises:
            ValueError: the task id is out of range.
        """
        if task_id is not None and not 0 <= task_id < self.num_tasks:
            raise ValueError(f'task id {task_id} is out of range; valid ids are 0 to {self.num_tasks - 1}')
        previous, self._task_id = self._task_id, task_id
        return previous


class PerTaskModules(nn.ModuleList):
    """A list of modules, one per task in the order of global task ids, that calls the selected task's.

    Arguments:
        modules: one module per task; or a single one, with ``shared=True``, for all tasks.
        selection: the model's task selection.
        shared: whether index 0 serves all tasks.

    Raises:
        ValueError: the number of modules is wrong.
    """

    def __init__(self, modules: Iterable[nn.Module], selection: TaskSelection, shared: bool = False) -> None:
        super().__init__(modules)
        expected = 1 if shared else selection.num_tasks
        if len(self) != expected:
            raise ValueError(f'expected {expected} modules, got {len(self)}')
        self.selection = selection
        self.shared = shared

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module of the selected task; arguments and result are that module's."""
        return self[0 if self.shared else self.selection.task_id](*args, **kwargs)
