"""Heads of different tasks stay far apart for a long time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ding_normmon.core.finding import Severity
from ding_normmon.diagnose.points import median, median_of_rows
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window
from ding_normmon.diagnose.wording import Words

__all__ = ['HeadGradientGap', 'HeadNormGap']


def _words(english: str, chinese: str, advice: str) -> Words:
    return {
        'en': {
            'above': f'{{task}}: the {english} norm of its {{head}} has been {{times:.3g}} times that of {{other}} for '
            '{records:g} records.',
            'below': f'{{task}}: the {english} norm of its {{head}} has been 1/{{times:.3g}} of that of {{other}} for '
            '{records:g} records.',
        },
        'zh': {
            'above': f'{{task}}：{{head}} 的{chinese}范数在 {{records:g}} 条记录里一直是{{other}}的 {{times:.3g}} 倍。',
            'below': f'{{task}}：{{head}} 的{chinese}范数在 {{records:g}} 条记录里一直是{{other}}的 1/{{times:.3g}}。',
            'advice': advice,
        },
    }


@dataclass
class _HeadGap(Rule):
    family: ClassVar[str]

    severity: Severity = 'info'
    clear: int = 20
    factor: float = 10.0
    records: int = 40

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per head, for the task furthest from the median of all tasks."""
        for head, name in window.heads(self.family):
            tasks, rows = window.ready(name, self.records)
            if len(tasks) < 2:
                continue
            levels = np.log(np.maximum(median_of_rows(window.points.last(rows, self.records)), 1e-30))
            apart = float(levels.max() - levels.min())
            strength = apart / math.log(self.factor)
            if strength < 0.8:
                continue
            index = int(np.argmax(np.abs(levels - median(levels))))
            is_above = levels[index] > median(levels)
            other = tasks[int(np.argmin(levels) if is_above else np.argmax(levels))]
            yield Sign(
                'above' if is_above else 'below',
                strength,
                (tasks[index],),
                head,
                {
                    f'{self.family}/{head}_task{task}/_total_norm': math.exp(level)
                    for task, level in zip(tasks, levels, strict=True)
                },
                {'head': head, 'times': math.exp(apart), 'other': other, 'records': self.records},
            )


@dataclass
class HeadGradientGap(_HeadGap):
    """The gradient norms of a head differ by more than 10 times between tasks, over many records.

    This is information, not a warning: a task that is solved, or whose rewards are rare, has a small gradient.

    Options:
        factor: ratio of the largest to the smallest median.
        records: number of records.
    """

    name: ClassVar[str] = 'head_gradient_gap'
    advice: ClassVar[str] = (
        'Weigh the losses of the tasks, or correct the gradients (MoCo, PCGrad, CAGrad): the task with the large one '
        'decides where shared parts go. A task whose gradient is small because it has met no reward needs exploration.'
    )
    words: ClassVar[Words] = _words(
        'gradient',
        '梯度',
        '调整各任务的损失权重，或修正梯度（MoCo、PCGrad、CAGrad）：梯度大的任务决定共享部分的方向。'
        '若梯度小是因为还没有得到奖励，则需要更多探索。',
    )
    reads: ClassVar[tuple[str, ...]] = ('grad/head_',)
    family: ClassVar[str] = 'grad'


@dataclass
class HeadNormGap(_HeadGap):
    """The parameter norms of a head differ several-fold between tasks, over many records.

    Options:
        factor: ratio of the largest to the smallest median.
        records: number of records.
    """

    name: ClassVar[str] = 'head_norm_gap'
    advice: ClassVar[str] = 'Give the tasks learning rates or weight decays of their own.'
    words: ClassVar[Words] = _words('parameter', '参数', '给各任务单独的学习率或权重衰减。')
    reads: ClassVar[tuple[str, ...]] = ('norm/head_',)
    family: ClassVar[str] = 'norm'

    factor: float = 4.0
