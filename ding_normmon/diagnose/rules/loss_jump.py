"""A loss of one task jumps up and stays up."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ding_normmon.diagnose.contrast import Contrast
from ding_normmon.diagnose.head_rule import HeadRule
from ding_normmon.diagnose.points import RECENT, median_of_rows
from ding_normmon.diagnose.rule import Sign
from ding_normmon.diagnose.window import Window

__all__ = ['LossJump']

@dataclass
class LossJump(HeadRule):
    """A loss of one task is suddenly far above what it was before, and above the other tasks'.

    The loss of a task that finds its first reward rises too, but from almost 0 to the level of the other tasks. Without
    other tasks to compare with, the jump must be larger.

    Options:
        factor: rise against the median before.
        spreads: the same rise in units of the past's spread.
        of_first: the loss must be at least this fraction of its first value.
        factor_alone: the rise where there is a single task.
    """

    name: ClassVar[str] = 'loss_jump'
    advice: ClassVar[str] = (
        "Look at this task's targets and rewards (scale, noise, NaN), at its replay data, and at the sign and weight "
        'of its losses.'
    )
    reads: ClassVar[tuple[str, ...]] = ('noreduce_',)

    family: ClassVar[str] = 'noreduce_{}_loss'
    heads: ClassVar[tuple[str, ...]] = ('value', 'policy', 'reward', 'obs')
    group: ClassVar[str] = '{} loss'
    baseline: ClassVar[int] = 24
    floor: ClassVar[float] = 0.1

    factor: float = 1.6
    of_first: float = 0.1
    factor_alone: float = 5.0

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task and loss; without tasks, one per loss."""
        yield from super().signs(window)
        for loss in self.heads:
            name = self.family.format(loss)
            rows = window.shared(name, RECENT + 8)
            if not rows.size:
                continue
            shift, spread = (float(values[0]) for values in window.points.shift(rows, self.baseline, self.floor))
            level = float(median_of_rows(window.points.last(rows, RECENT))[0])
            back = level / max(float(window.points.first[rows][0]), 1e-30) / self.of_first
            strength = min(shift / math.log(self.factor_alone), shift / spread / self.spreads, back)
            if strength >= self.release:
                past = level / math.exp(shift)
                yield Sign(
                    f'The {loss} loss has risen from {past:.3g} to {level:.3g} within a few steps and stays there.',
                    strength,
                    group=self.group.format(loss),
                    evidence={name: level, 'usual level': past},
                    metrics=(name,),
                )

    def strength(self, compared: Contrast, index: int) -> float:
        """The loss must also be above the other tasks' losses, and back near its first value."""
        above_others = compared.level[index] / max(np.delete(compared.level, index).max(initial=0.0), 1e-30)
        back = compared.level[index] / max(compared.first[index], 1e-30) / self.of_first
        return float(min(super().strength(compared, index), above_others, back))

    def sentence(self, head: str, compared: Contrast, index: int) -> str:
        """Return which loss has risen."""
        return (
            f'its {head} loss has risen from {compared.past[index]:.3g} to {compared.level[index]:.3g} within a few '
            f'steps and stays there.'
        )
