"""Skipped optimizer steps, and the scale of the loss."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar

from torch import Tensor

from ding_normmon.metrics.base import Chart, Figure, LearnerStep, RowBuffer, RowKey, RowTable
from ding_normmon.metrics.kernels.device_signals import write_number
from ding_normmon.metrics.mixins import Finishing
from ding_normmon.rows.moments import COUNT, MAXIMUM, MEAN

__all__ = ['LearnerSteps']


_figure = partial(Figure, section='Learner steps', hook_point='optimizer step')


class LearnerSteps(Finishing):
    """``step/skipped``: backward passes since the last record that moved no weights, because the loop or a
    ``GradScaler`` left the optimizer's step out. ``step/loss_scale``: what the loss of this step was multiplied by.

    Both are observed and not computed, and absent if nothing was observed.
    """

    name: ClassVar[str] = 'learner_steps'
    figures: ClassVar[tuple[Figure, ...]] = (
        _figure(
            'step/skipped',
            (
                'backward passes since the last record that moved no weights, because the loop or a `GradScaler` left '
                "the optimizer's step out; they are no learner steps and have no record; most of any rank; absent "
                'where there were none'
            ),
            'steps',
            bad_value='above 0 again and again: the loss overflows, or is not finite',
            chart=Chart('Updates', 'Learner steps: skipped since the last record'),
        ),
        _figure(
            'step/loss_scale',
            'what the loss was multiplied by (`GradScaler.get_scale()`); gradients are shown without it',
            'factor',
            bad_value='falling towards 1: gradients overflow at any scale',
            scale='log',
            chart=Chart('Updates', 'Learner steps: loss scale'),
        ),
    )
    hook_points: ClassVar[tuple[str, ...]] = ('backward_end',)

    def __init__(self) -> None:
        self._skipped = 0
        self._scale: Tensor | float | None = None
        self._between = False

    def note_skipped(self) -> None:
        """Count a step that was left out."""
        self._skipped += 1

    def note_scale(self, scale: Tensor | float) -> None:
        """Take the scale of the loss of the current step; a tensor is not read here."""
        self._scale = scale.clone() if isinstance(scale, Tensor) else scale

    def begin(self, step: LearnerStep) -> None:
        """Forget the scale of a step that was not written."""
        self._scale, self._between = None, step.between

    def finish(self, rows: RowBuffer) -> None:
        """Write what was noted."""
        if self._scale is not None:
            write_number(RowKey(self.name, 'loss_scale'), self._scale, rows)
            self._scale = None
        if self._skipped:
            write_number(RowKey(self.name, 'skipped'), self._skipped, rows)
            if not self._between:
                self._skipped = 0

    def state_bytes(self) -> int:
        """Return the size of the count."""
        return 8

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield the scale, and the largest number of skipped steps of any rank."""
        for name, row in table.named(self.name):
            if row[COUNT] > 0:
                yield f'step/{name}', float(row[MAXIMUM] if name == 'skipped' else row[MEAN])
