"""Scalars that the policy publishes per task, such as LightZero's ``noreduce_*`` losses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from torch import Tensor

from ding_normmon import native
from ding_normmon.learner_step import LearnerStep
from ding_normmon.moments import MEAN, constant_rows, device_row_of
from ding_normmon.quantities.quantity import Quantity
from ding_normmon.rows import RowBuffer, RowKey, RowTable

__all__ = ['TaskLosses']


class TaskLosses(Quantity):
    """The per-task losses of every rank under the names the policy gave them: ``noreduce_obs_loss_task3``."""

    name: ClassVar[str] = 'task_losses'
    hook_points: ClassVar[tuple[str, ...]] = ('forward_end',)

    def __init__(self) -> None:
        self._values: dict[tuple[str, int | None], float] = {}
        self._keys: tuple[RowKey, ...] = ()
        self._rows: RowBuffer | None = None

    def on_publish_loss(self, name: str, value: Tensor | float, task_id: int | None, rows: RowBuffer) -> None:
        """Take a number; on an accelerator write its row at once."""
        if isinstance(value, Tensor) and not rows.on_host:
            rows.write(RowKey(self.name, name, task_id), device_row_of(value))
        else:
            self._values[name, task_id] = native.number_of(value)
            self._rows = rows

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Write the rows of all numbers."""
        self._write(rows)

    def _write(self, rows: RowBuffer) -> None:
        if not self._values:
            return
        names, self._values = self._values, {}
        if [key[1:3] for key in self._keys] != list(names):
            self._keys = tuple(RowKey(self.name, name, task_id) for name, task_id in names)
        rows.write_rows(self._keys, constant_rows(np.array(list(names.values()))))

    def release(self) -> None:
        """Write what was published in a step that had no end of its forward pass, or after it."""
        if self._rows is not None:
            self._write(self._rows)
        self._rows = None

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield ``{name}_task{i}``; a loss that was NaN or infinite is a count instead."""
        for name, tasks in table.of(self.name).items():
            for task_id, row in tasks.items():
                metric = name if task_id is None else f'{name}_task{task_id}'
                if row[0] > 0:
                    yield metric, float(row[MEAN])
                if row[5] > 0:
                    yield f'monitor/nonfinite/{metric}', float(row[5])
