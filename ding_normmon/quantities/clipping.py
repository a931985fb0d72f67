r"""How much gradients are scaled down by clipping, and how often."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from ding_normmon.learner_step import Clip
from ding_normmon.moments import COUNT, MAXIMUM, MEAN, MINIMUM, NONFINITE, Row, constant_row, device_row_of
from ding_normmon.quantities.quantity import Quantity
from ding_normmon.rows import RowBuffer, RowKey, RowTable

__all__ = ['Clipping']

_EPSILON = 1e-6
"""What ``torch.nn.utils.clip_grad_norm_`` adds to the norm."""


class Clipping(Quantity):
    r"""``clip/{model}/coefficient``: :math:`\min(1, c / (\lVert g \rVert + 10^{-6}))` for a limit :math:`c`, the factor
    that ``clip_grad_norm_`` applies; 1 means that clipping did nothing.

    A policy tells of it with ``step.clipped(norm, max_norm)``. Where every rank clips its own gradients before they are
    synchronised (``local=True``), coefficients differ by rank: ``coefficient`` is their mean over the ranks, with
    ``coefficient_min`` and ``coefficient_max``, and ``clip/{model}_task{i}/weight`` is the coefficient of the task's
    rank divided by the mean over tasks: by how much clipping has re-weighted the tasks against each other.

    Arguments:
        every_step: also ``clip/{model}/rate``, the share of learner steps since the last record in which clipping did
            something. It looks at every step, monitored or not, without waiting for the device.
    """

    name: ClassVar[str] = 'clipping'

    def __init__(self, every_step: bool = False) -> None:
        self.every_step = every_step
        self._steps: dict[str, int] = {}
        self._bites: dict[str, Tensor | int] = {}

    def on_clip(self, clip: Clip, rows: RowBuffer) -> None:
        """Write the coefficient, and the rate of all steps since the last record."""
        row = self._row(clip, rows)
        rows.write(RowKey(self.name, clip.model), row)
        if clip.local:
            rows.write(RowKey(self.name, clip.model, None, 'local'), constant_row(1))
            for task_id in self.setup.task_ids:
                rows.write(RowKey(self.name, clip.model, task_id), row)
        if self.every_step:
            self.on_clip_of_any_step(clip)
            steps, bites = self._steps.pop(clip.model), self._bites.pop(clip.model)
            rate = bites / steps
            share = rate if isinstance(rate, Tensor) else torch.tensor(rate, dtype=torch.float64)
            zero = torch.zeros_like(share)
            full = torch.stack([zero + steps, share, steps * share * (1 - share), zero, zero + 1, zero])
            rows.write(RowKey(self.name, clip.model, None, 'rate'), full)

    def on_clip_of_any_step(self, clip: Clip) -> None:
        """Count a step."""
        bites: Tensor | int
        if isinstance(clip.norm, Tensor):
            bites = (clip.norm.reshape(()) + _EPSILON > clip.max_norm).to(torch.float64)
        else:
            bites = int(clip.norm + _EPSILON > clip.max_norm)
        self._steps[clip.model] = self._steps.get(clip.model, 0) + 1
        self._bites[clip.model] = self._bites.get(clip.model, 0) + bites

    def state_bytes(self) -> int:
        """Return the size of the counts."""
        return 16 * len(self._steps)

    def _row(self, clip: Clip, rows: RowBuffer) -> Row | Tensor:
        if isinstance(clip.norm, Tensor) and not rows.on_host:
            norm = clip.norm.reshape(()).to(torch.float64)
            # An infinite norm would give 0 and look like a figure.
            norm = torch.where(torch.isfinite(norm), norm, torch.full_like(norm, math.nan))
            return device_row_of((clip.max_norm / (norm + _EPSILON)).clamp(max=1.0))
        number = float(clip.norm)
        return constant_row(min(1.0, clip.max_norm / (number + _EPSILON)) if math.isfinite(number) else math.nan)

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield coefficients, rates and, where ranks clip for themselves, what that does to the tasks."""
        local = table.of(self.name, 'local')
        for model, tasks in table.of(self.name).items():
            row = tasks[None]
            if row[NONFINITE] > 0:
                yield f'monitor/nonfinite/clip/{model}', float(row[NONFINITE])
            if row[COUNT] > 0:
                yield f'clip/{model}/coefficient', float(row[MEAN])
            if model not in local:
                continue
            if row[COUNT] > 0:
                yield f'clip/{model}/coefficient_min', float(row[MINIMUM])
                yield f'clip/{model}/coefficient_max', float(row[MAXIMUM])
            known = {task: float(row[MEAN]) for task, row in tasks.items() if task is not None and row[COUNT] > 0}
            mean = sum(known.values()) / max(1, len(known))
            if table.complete and mean > 0:
                for task, coefficient in known.items():
                    yield f'clip/{model}_task{task}/weight', coefficient / mean
        for model, tasks in table.of(self.name, 'rate').items():
            yield f'clip/{model}/rate', float(tasks[None][MEAN])
