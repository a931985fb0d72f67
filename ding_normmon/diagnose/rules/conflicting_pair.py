"""The gradients of two tasks point in opposite directions for a long time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window
from ding_normmon.diagnose.wording import Words

__all__ = ['ConflictingPair']


@dataclass
class ConflictingPair(Rule):
    """The median cosine of two tasks' gradients on a shared group is clearly below 0.

    Options:
        cosine: the median cosine must be below minus this.
        measurements: number of conflict measurements in the median.
    """

    name: ClassVar[str] = 'conflicting_pair'
    advice: ClassVar[str] = (
        'Project the gradients of the two tasks (PCGrad, CAGrad, MoCo), give one of them a larger private part, or '
        'train them apart.'
    )
    words: ClassVar[Words] = {
        'en': {
            'pair': '{task} and {other} pull the {group} in opposite directions: the cosine of their gradients is '
            '{cosine:.2f}.'
        },
        'zh': {
            'pair': '{task}和{other}把 {group} 往相反方向拉：两者梯度的余弦为 {cosine:.2f}。',
            'advice': '投影两个任务的梯度（PCGrad、CAGrad、MoCo），给其中一个更大的私有部分，或分开训练。',
        },
    }
    reads: ClassVar[tuple[str, ...]] = ('conflict/',)

    cosine: float = 0.5
    measurements: int = 6
    clear: int = 20

    def __post_init__(self) -> None:
        self._recent: dict[str, deque[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]] = {}

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per pair, on the first group on which they conflict."""
        reported: set[tuple[int, ...]] = set()
        for name, matrix in window.record.matrices.items():
            if name.endswith('/cosine'):
                kept = self._recent.setdefault(name, deque(maxlen=self.measurements))
                if kept and kept[-1].shape != matrix.values.shape:
                    kept.clear()
                kept.append(np.asarray(matrix.values, np.float64))
                self._tasks = matrix.rows
        for name, kept in self._recent.items():
            if len(kept) < self.measurements:
                continue
            group = name.removeprefix('conflict/').removesuffix('/cosine')
            with np.errstate(all='ignore'):
                middle = np.median(np.stack(list(kept)), axis=0)
            for first in range(len(middle)):
                for second in range(first + 1, len(middle)):
                    strength = -float(middle[first, second]) / self.cosine
                    pair = (int(self._tasks[first]), int(self._tasks[second]))
                    if not strength >= self.release or pair in reported:
                        continue
                    reported.add(pair)
                    yield Sign(
                        'pair',
                        strength,
                        pair,
                        group,
                        {f'{name} of {pair[0]} and {pair[1]}': float(middle[first, second])},
                        {'other': pair[1], 'group': group, 'cosine': float(middle[first, second])},
                    )
