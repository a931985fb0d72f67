"""The gradient of a shared group fluctuates strongly."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ding_normmon.core.finding import Severity
from ding_normmon.diagnose.past import SPREAD_OF_MAD
from ding_normmon.diagnose.points import median
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window
from ding_normmon.diagnose.wording import Words

__all__ = ['GradientNoise']


@dataclass
class GradientNoise(Rule):
    """The gradient norm of a shared group changes by a factor of about e or more from record to record.

    The figure is a robust coefficient of variation without trend: 1.4826 median(|Δ log g|) / √2.

    Options:
        variation: threshold of this coefficient.
        records: number of records.
    """

    name: ClassVar[str] = 'gradient_noise'
    advice: ClassVar[str] = (
        'Use larger batches or a smaller learning rate; where tasks alternate in driving the gradient, correct it '
        '(MoCo averages the directions of the tasks over steps).'
    )
    words: ClassVar[Words] = {
        'en': {'varies': 'The gradient norm of the {group} varies by a factor of {times:.2g} from record to record.'},
        'zh': {
            'varies': '{group} 的梯度范数在相邻记录之间变化约 {times:.2g} 倍。',
            'advice': '使用更大的批次或更小的学习率；若各任务轮流主导梯度，则修正梯度（MoCo 对任务方向做滑动平均）。',
        },
    }
    reads: ClassVar[tuple[str, ...]] = ('grad/',)

    severity: Severity = 'info'
    variation: float = 1.0
    records: int = 40

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per group."""
        for group in ('encoder', 'transformer'):
            name = f'grad/{group}/_total_norm'
            rows = window.shared(name, self.records + 10)
            if not rows.size:
                continue
            points = window.points.last(rows, self.records)[0]
            middle = median(points)
            # Differences of neighbours remove the slow trend of the gradient norm during training.
            steps = np.diff(np.log(np.maximum(points, 1e-30)))
            variation = SPREAD_OF_MAD * median(np.abs(steps)) / math.sqrt(2)
            if variation / self.variation >= self.release:
                yield Sign(
                    'varies',
                    variation / self.variation,
                    group=group,
                    evidence={name: middle, 'robust coefficient of variation': variation},
                    values={'group': group, 'times': math.exp(variation)},
                )
