"""The steps of one head suddenly become much larger."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.diagnose.contrast import HEADS, contrasts
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window

__all__ = ['UpdateJump']


@dataclass
class UpdateJump(Rule):
    """The step of one task's head relative to its weights is far above its past, and the other tasks' are not.

    Options:
        factor: rise against the past and against the other tasks.
        spreads: the same rise in units of the past's spread.
    """

    name: ClassVar[str] = 'update_jump'
    advice: ClassVar[str] = (
        "Look at the learning rate and the weight decay of this head's parameters in the optimizer; a task may have "
        'its own, but a head whose weights change by more than about 1% in a step does not settle.'
    )
    reads: ClassVar[tuple[str, ...]] = ('update/',)

    factor: float = 5.0
    spreads: float = 5.0

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task and head."""
        families = [f'update/{head}/relative' for head in HEADS]
        for head, compared in zip(HEADS, contrasts(window, families, floor=0.2), strict=True):
            for index, task_id in enumerate(compared.tasks):
                change = compared.least_change(index)
                strength = min(change / math.log(self.factor), change / compared.spread[index] / self.spreads)
                if strength >= self.release:
                    yield Sign(
                        f'{window.call(task_id)}: each step moves its {head} by {compared.level[index]:.2g} of its '
                        f'norm, {math.exp(change):.3g} times as much as before.',
                        strength,
                        (task_id,),
                        head,
                        {compared.names[index]: compared.level[index], 'usual level': compared.past[index]},
                        (compared.names[index],),
                    )
