"""The gradient of a shared group explodes or vanishes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.core.finding import Severity
from ding_normmon.diagnose.points import RECENT, median_of_rows
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window

__all__ = ['ExplodingGradient', 'VanishingGradient']

_GROUPS = ('encoder', 'transformer', 'model')

_ZERO = 1e-20


@dataclass
class _SharedJump(Rule):
    reads: ClassVar[tuple[str, ...]] = ('grad/',)
    direction: ClassVar[int]
    verb: ClassVar[str]

    severity: Severity = 'warning'
    factor: float = 30.0
    spreads: float = 6.0

    def past_and_factor(self, window: Window) -> tuple[int, float]:
        """Return how many points of the past are needed, and which change against them is a finding."""
        return 8, self.factor

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign, for the group that has changed most."""
        best: tuple[float, Sign] | None = None
        needed, factor = self.past_and_factor(window)
        for group in _GROUPS:
            name = f'grad/{group}/_total_norm'
            rows = window.shared(name, RECENT + needed)
            if not rows.size:
                continue
            shift, spread = window.points.shift(rows, 60, 0.2)
            change = self.direction * float(shift[0])
            strength = min(change / math.log(factor), change / float(spread[0]) / self.spreads)
            level = float(median_of_rows(window.points.last(rows, RECENT))[0])
            past = level / math.exp(float(shift[0]))
            # A gradient that was 0 and now is not has begun; it has not exploded.
            if past > _ZERO and strength >= self.release and (best is None or strength > best[0]):
                sentence = f'The gradient norm of the {group} has {self.verb} from {past:.3g} to {level:.3g}.'
                best = strength, Sign(sentence, strength, (), None, {name: level, 'usual level': past}, (name,))
        return [] if best is None else [best[1]]


@dataclass
class ExplodingGradient(_SharedJump):
    """The gradient norm of a shared group, before clipping, is far above its past.

    Options:
        factor: rise against the median of the past.
        spreads: the same rise in units of the past's spread.
        young: in this many records at the start only a rise by ``factor_young`` counts: norms still change much then.
        factor_young: rise against the median of the past, which may be two points.
    """

    name: ClassVar[str] = 'exploding_gradient'
    advice: ClassVar[str] = (
        'Lower the learning rate, clip harder, and look at which task dominates the shared gradient.'
    )
    direction: ClassVar[int] = 1
    verb: ClassVar[str] = 'risen'

    warmup: int = 3
    young: int = 30
    factor_young: float = 1e5

    def past_and_factor(self, window: Window) -> tuple[int, float]:
        """Be strict with a young run, and still tell of a jump by many orders of magnitude."""
        return (2, self.factor_young) if window.points.records <= self.young else super().past_and_factor(window)


@dataclass
class VanishingGradient(_SharedJump):
    """The gradient norm of a shared group is far below its past.

    Options:
        factor: fall against the median of the past.
        spreads: the same fall in units of the past's spread.
    """

    name: ClassVar[str] = 'vanishing_gradient'
    advice: ClassVar[str] = 'Look at loss weights, at detached or frozen parts, and at saturated activations.'
    direction: ClassVar[int] = -1
    verb: ClassVar[str] = 'fallen'
