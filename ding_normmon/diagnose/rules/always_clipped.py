"""Every gradient is clipped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.core.finding import Severity
from ding_normmon.diagnose.points import median
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window
from ding_normmon.diagnose.wording import Words

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
        'With SGD the limit sets the length of the step: raise it and lower the learning rate. Adam and AdamW divide '
        'the factor out again, so their steps are the same; what is lost there is the protection from single large '
        'gradients. Look at which task makes the gradient large.'
    )
    words: ClassVar[Words] = {
        'en': {
            'all': 'All of the last {records:g} gradients were clipped, in the median to {middle:.2g} of their norm.',
        },
        'zh': {
            'all': '最近 {records:g} 个梯度全部被裁剪，中位数只剩原范数的 {middle:.2g}。',
            'advice': '使用 SGD 时，步长由阈值决定：提高阈值并降低学习率。Adam 和 AdamW 会把这个倍数再除掉，步长不变，'
            '失去的只是对个别大梯度的保护。查看是哪个任务使梯度变大。',
        },
    }
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
                    'all',
                    self.coefficient / max(middle, 1e-12),
                    group=name.split('/')[1],
                    evidence={name: middle},
                    values={'records': self.records, 'middle': middle},
                )
