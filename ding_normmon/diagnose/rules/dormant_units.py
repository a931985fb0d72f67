"""Many units of a shared layer are dormant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window

__all__ = ['DormantUnits']

_NAME = re.compile(r'plasticity/([^/]+)/dormant_tau[^/]*')


@dataclass
class DormantUnits(Rule):
    """A large share of a shared group's units is dormant for all tasks together.

    Options:
        share: threshold of the share of dormant units.
    """

    name: ClassVar[str] = 'dormant_units'
    advice: ClassVar[str] = (
        'Reset dormant units (ReDo), lower the learning rate, add layer normalisation or weight decay; look at what '
        'happened to the encoder in the iteration named.'
    )
    reads: ClassVar[tuple[str, ...]] = ('plasticity/',)
    follows: ClassVar[bool] = False

    share: float = 0.4

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per group, at the smallest dormancy threshold that exceeds the limit."""
        reported: set[str] = set()
        for name in window.points.names:
            found = _NAME.fullmatch(name)
            if found is None or '_task' in found[1] or found[1] in reported:
                continue
            rows = window.shared(name, 3, age=64)
            if not rows.size:
                continue
            value = float(window.points.last(rows, 1)[0, 0])
            if value / self.share >= self.release:
                reported.add(found[1])
                sentence = f'{value:.0%} of the units of the {found[1]} are dormant.'
                yield Sign(sentence, value / self.share, group=found[1], evidence={name: value})
