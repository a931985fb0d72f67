"""The gradient of one task's head changes suddenly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.diagnose.contrast import HEADS, Contrast
from ding_normmon.diagnose.head_rule import HeadRule, strongest_of_tasks
from ding_normmon.diagnose.rule import Sign
from ding_normmon.diagnose.window import Window

__all__ = ['GradientJump']


@dataclass
class GradientJump(HeadRule):
    """The gradient norm of a task's head is far from its own past, and the other tasks' are not.

    Something has changed what this task asks of the model: its loss weight, its rewards, its targets, its data.

    Options:
        factor: change against the past and against the other tasks, in either direction.
        spreads: the same change in units of the past's spread (robust standard deviation).
    """

    name: ClassVar[str] = 'gradient_jump'
    advice: ClassVar[str] = (
        'Look at what has changed for this task: its loss weight, reward scale, targets and data; if nothing was meant '
        'to change, lower its loss weight or its learning rate.'
    )
    reads: ClassVar[tuple[str, ...]] = ('grad/',)

    family: ClassVar[str] = 'grad/{}/_total_norm'

    spreads: float = 7.0

    def strength(self, compared: Contrast, index: int) -> float:
        """A gradient that has vanished is as strong a sign as one that has grown."""
        change = abs(compared.least_change(index))
        return min(change / math.log(self.factor), change / float(compared.spread[index]) / self.spreads)

    def sentence(self, head: str, compared: Contrast, index: int) -> str:
        """Return which head's gradient has changed, and by how much."""
        change = compared.least_change(index)
        times = math.exp(abs(change))
        amount = f'{times:.3g} times' if change > 0 else f'1/{times:.3g} of'
        return f"the gradient norm of its {head} is {amount} its usual level; the other tasks' are not."

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task, for the head that has changed most in units of its spread."""
        for sign in strongest_of_tasks(super().signs(window)):
            names = tuple(f'grad/{head}_task{sign.tasks[0]}/_total_norm' for head in HEADS)
            yield dataclasses.replace(sign, group=None, metrics=names)
