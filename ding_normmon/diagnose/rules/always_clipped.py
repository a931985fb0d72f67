"""Every gradient is clipped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.core.finding import Severity
from ding_normmon.diagnose.points import median
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window

__all__ = ['AlwaysClipped']


@dataclass
class AlwaysClipped(Rule):
    """Every gradient of the last records was clipped, and to a small fraction of its norm.

    Options:
        coefficient: threshold of the median clip coefficient.
        records: number of records.
    """

    name: ClassVar[str] = 'always_clipped'
    advice: ClassVar[str] = (
        'The limit, not the gradient, sets the length of the step: raise the limit and lower the learning rate, and '
        'look at which task makes the gradient large.'
    )
    reads: ClassVar[tuple[str, ...]] = ('clip/',)

    severity: Severity = 'info'
    clear: int = 20
    coefficient: float = 0.3
    records: int = 30

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per clip call."""
        for name in window.matching(r'clip/[^/]+/coefficient'):
            rows = window.shared(name, self.records)
            if not rows.size:
                continue
            points = window.points.last(rows, self.records)[0]
            middle = median(points)
            # All zeros are for `clipped_to_zero`.
            if middle > 0 and points.max() < 1 and self.coefficient / max(middle, 1e-12) >= self.release:
                yield Sign(
                    f'All of the last {self.records} gradients were clipped, in the median to {middle:.2g} of their '
                    'norm.',
                    self.coefficient / max(middle, 1e-12),
                    group=name.split('/')[1],
                    evidence={name: middle},
                )
