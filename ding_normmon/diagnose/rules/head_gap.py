"""Heads of different tasks stay far apart for a long time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ding_normmon.core.finding import Severity
from ding_normmon.diagnose.head_rule import of_heads
from ding_normmon.diagnose.points import median, median_of_rows
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window

__all__ = ['HeadGradientGap', 'HeadNormGap']


@dataclass
class _HeadGap(Rule):
    reads: ClassVar[tuple[str, ...]]
    family: ClassVar[str]
    what: ClassVar[str]

    severity: Severity = 'info'
    clear: int = 20
    factor: float = 10.0
    records: int = 40

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per head, for the task furthest from the median of all tasks."""
        for head, tasks, rows in of_heads(window, f'{self.family}/{{}}/_total_norm', self.records):
            levels = np.log(np.maximum(median_of_rows(window.points.last(rows, self.records)), 1e-30))
            apart = float(levels.max() - levels.min())
            strength = apart / math.log(self.factor)
            if strength < 0.8:
                continue
            middle = median(levels)
            index = int(np.argmax(np.abs(levels - middle)))
            task_id, other = (
                tasks[index],
                tasks[int(np.argmin(levels) if levels[index] > middle else np.argmax(levels))],
            )
            which = 'above' if levels[index] > levels[tasks.index(other)] else 'below'
            yield Sign(
                f'{window.call(task_id)}: the {self.what} norm of its {head} has been {math.exp(apart):.3g} times '
                f'{which} that of {window.mention(other)} for {self.records} records.',
                strength,
                (task_id,),
                head,
                {
                    f'{self.family}/{head}_task{each}/_total_norm': math.exp(level)
                    for each, level in zip(tasks, levels, strict=True)
                },
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
    reads: ClassVar[tuple[str, ...]] = ('grad/head_',)
    family: ClassVar[str] = 'grad'
    what: ClassVar[str] = 'gradient'


@dataclass
class HeadNormGap(_HeadGap):
    """The parameter norms of a head differ several-fold between tasks, over many records.

    Options:
        factor: ratio of the largest to the smallest median.
        records: number of records.
    """

    name: ClassVar[str] = 'head_norm_gap'
    advice: ClassVar[str] = 'Give the tasks learning rates or weight decays of their own.'
    reads: ClassVar[tuple[str, ...]] = ('norm/head_',)
    family: ClassVar[str] = 'norm'
    what: ClassVar[str] = 'parameter'

    factor: float = 4.0
