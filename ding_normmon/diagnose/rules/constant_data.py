"""Successive observations of one task no longer differ."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.diagnose.contrast import contrast
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window

__all__ = ['ConstantData']


@dataclass
class ConstantData(Rule):
    """The mean difference of successive observations of one task falls, and that of the others does not.

    A replay buffer mixes what is collected now with what was collected before, so the fall is gradual.

    Options:
        factor: fall against the past and against the other tasks.
        spreads: the same in spreads of the past.
    """

    name: ClassVar[str] = 'constant_data'
    advice: ClassVar[str] = (
        "Look at what this task's environment shows: a constant picture, a stuck process, a policy that stands still."
    )
    reads: ClassVar[tuple[str, ...]] = ('data/observation_change',)

    factor: float = 1.4
    spreads: float = 3.0

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task."""
        compared = contrast(window, 'data/observation_change/mean', baseline=60, floor=0.08)
        for index, task_id in enumerate(compared.tasks):
            change = -compared.least_change(index)
            strength = min(change / math.log(self.factor), change / compared.spread[index] / self.spreads)
            if strength >= self.release:
                yield Sign(
                    f'{window.call(task_id)}: successive observations differ by {compared.level[index]:.3g}, '
                    f"before by {compared.past[index]:.3g}, on average; the other tasks' differ as before.",
                    strength,
                    (task_id,),
                    'data/observation_change',
                    {compared.names[index]: compared.level[index], 'usual level': compared.past[index]},
                    (compared.names[index],),
                )
