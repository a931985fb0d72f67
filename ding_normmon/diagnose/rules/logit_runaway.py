"""The logits of one task run away."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.diagnose.contrast import contrasts
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window

__all__ = ['LogitRunaway']


@dataclass
class LogitRunaway(Rule):
    """The largest absolute logit of one task's head is far above its own past and the other tasks'.

    For a policy this means that it is almost certain of its actions; for a categorical value or reward, that its
    support is saturated or its target far outside the earlier range.

    Options:
        factor: rise against the past and against the other tasks.
        spreads: the same rise in units of the past's spread.
    """

    name: ClassVar[str] = 'logit_runaway'
    advice: ClassVar[str] = (
        "Scale the temperature of this task's policy, add an entropy bonus or a penalty on logits; for values, widen "
        'the support or scale the rewards.'
    )
    reads: ClassVar[tuple[str, ...]] = ('logits/',)

    factor: float = 2.0
    spreads: float = 5.0

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task and head."""
        heads = ('policy', 'value', 'reward')
        families = [f'logits/{head}/abs_max' for head in heads]
        for head, compared in zip(heads, contrasts(window, families, baseline=40, floor=0.08), strict=True):
            for index, task_id in enumerate(compared.tasks):
                change = compared.least_change(index)
                strength = min(change / math.log(self.factor), change / compared.spread[index] / self.spreads)
                if strength >= self.release:
                    yield Sign(
                        f'{window.call(task_id)}: the largest {head} logit has gone from {compared.past[index]:.3g} to '
                        f"{compared.level[index]:.3g}; the other tasks' have not.",
                        strength,
                        (task_id,),
                        f'logits/{head}',
                        {compared.names[index]: compared.level[index], 'usual level': compared.past[index]},
                        (compared.names[index],),
                    )
