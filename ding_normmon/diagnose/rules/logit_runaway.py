"""The logits of one task run away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.diagnose.contrast import Contrast
from ding_normmon.diagnose.head_rule import HeadRule

__all__ = ['LogitRunaway']


@dataclass
class LogitRunaway(HeadRule):
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

    family: ClassVar[str] = 'logits/{}/abs_max'
    heads: ClassVar[tuple[str, ...]] = ('policy', 'value', 'reward')
    group: ClassVar[str] = 'logits/{}'
    floor: ClassVar[float] = 0.08

    factor: float = 2.0

    def sentence(self, head: str, compared: Contrast, index: int) -> str:
        """Return which logits run away."""
        return (
            f'the largest {head} logit has gone from {compared.past[index]:.3g} to {compared.level[index]:.3g}; the '
            f"other tasks' have not."
        )
