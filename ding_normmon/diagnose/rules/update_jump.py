"""The steps of one head suddenly become much larger."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.diagnose.contrast import Contrast
from ding_normmon.diagnose.head_rule import HeadRule

__all__ = ['UpdateJump']


@dataclass
class UpdateJump(HeadRule):
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

    family: ClassVar[str] = 'update/{}/relative'
    floor: ClassVar[float] = 0.2

    def sentence(self, head: str, compared: Contrast, index: int) -> str:
        """Return which head is moved, and by how much."""
        times = math.exp(compared.least_change(index))
        level = f'{compared.level[index]:.2g}'
        return f'each step moves its {head} by {level} of its norm, {times:.3g} times as much as before.'
