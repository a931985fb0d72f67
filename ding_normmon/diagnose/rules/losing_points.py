"""The monitor itself is losing points."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window

__all__ = ['LosingPoints']


@dataclass
class LosingPoints(Rule):
    """Ranks are missing from records, or something was lost on the way."""

    name: ClassVar[str] = 'losing_points'
    advice: ClassVar[str] = (
        'The log gives each reason once. Missing ranks: look for a slow or dead one, or raise deadline. Destinations: '
        'look at the disk.'
    )
    reads: ClassVar[tuple[str, ...]] = ('monitor/',)
    follows: ClassVar[bool] = False

    clear: int = 10
    warmup: int = 2

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign for missing ranks and one per reason for lost data."""
        missing = window.record.scalars.get('monitor/missing_ranks', 0.0)
        if missing:
            sentence = f'{missing:g} ranks are missing from the records.'
            yield Sign(sentence, group='ranks', evidence={'monitor/missing_ranks': missing})
        for name, amount in window.matching(r'monitor/lost/.+').items():
            reason = name.removeprefix('monitor/lost/')
            yield Sign(f'The monitor loses data: {amount:g} times {reason}.', group=reason, evidence={name: amount})
