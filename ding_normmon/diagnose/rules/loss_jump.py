"""A loss of one task jumps up and stays up."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ding_normmon.diagnose.contrast import contrasts
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window

__all__ = ['LossJump']

_LOSSES = ('value', 'policy', 'reward', 'obs')


@dataclass
class LossJump(Rule):
    """A loss of one task is suddenly far above what it was before, and above the other tasks'.

    The loss of a task that finds its first reward rises too, but from almost 0 to the level of the other tasks.

    Options:
        factor: rise against the median before.
        spreads: the same rise in units of the past's spread.
        of_first: the loss must be at least this fraction of its first value.
    """

    name: ClassVar[str] = 'loss_jump'
    advice: ClassVar[str] = (
        "Look at this task's targets and rewards (scale, noise, NaN), at its replay data, and at the sign and weight "
        'of its losses.'
    )
    reads: ClassVar[tuple[str, ...]] = ('noreduce_',)

    factor: float = 1.6
    spreads: float = 5.0
    of_first: float = 0.1

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task and loss."""
        families = [f'noreduce_{loss}_loss' for loss in _LOSSES]
        for loss, compared in zip(_LOSSES, contrasts(window, families, baseline=24, floor=0.1), strict=True):
            for index, task_id in enumerate(compared.tasks):
                change = compared.least_change(index)
                if change <= 0:
                    continue
                above_past = change / math.log(self.factor)
                above_others = compared.level[index] / max(np.delete(compared.level, index).max(initial=0.0), 1e-30)
                back = compared.level[index] / max(compared.first[index], 1e-30) / self.of_first
                strength = min(above_past, above_others, back, change / compared.spread[index] / self.spreads)
                if strength < self.release:
                    continue
                yield Sign(
                    f'{window.call(task_id)}: its {loss} loss has risen from {compared.past[index]:.3g} to '
                    f'{compared.level[index]:.3g} within a few steps and stays there.',
                    strength,
                    (task_id,),
                    f'{loss} loss',
                    {compared.names[index]: compared.level[index], 'usual level': compared.past[index]},
                    (compared.names[index],),
                )
