"""Steps that are far too large or too small for the weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.diagnose.points import median
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window
from ding_normmon.diagnose.wording import Words

__all__ = ['UpdateRange']

_NAME = re.compile(r'update/(.+?)(?:_task(\d+))?/relative')


@dataclass
class UpdateRange(Rule):
    """The step is above a tenth of the weights, or below a ten-millionth of them, over many records.

    Karpathy's rule of thumb (CS231n) is a thousandth; Adam's first steps are far above it.

    Options:
        largest: upper limit of the median ratio of the step's norm to the weights' norm.
        smallest: lower limit of the same ratio.
        records: number of measurements in the median.
    """

    name: ClassVar[str] = 'update_range'
    advice: ClassVar[str] = 'Lower, or raise, the learning rate of this group; look at its gradient and at clipping.'
    words: ClassVar[Words] = {
        'en': {
            'task': '{task}: its {group} is moved by {middle:.2g} of its norm in each step.',
            'shared': 'The {group} is moved by {middle:.2g} of its norm in each step.',
        },
        'zh': {
            'task': '{task}：每一步使 {group} 改变其范数的 {middle:.2g}。',
            'shared': '每一步使 {group} 改变其范数的 {middle:.2g}。',
            'advice': '调低或调高这一组的学习率；查看它的梯度和裁剪。',
        },
    }
    reads: ClassVar[tuple[str, ...]] = ('update/',)

    largest: float = 0.1
    smallest: float = 1e-7
    records: int = 20

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per group."""
        for name, value in window.matching(r'update/.+/relative').items():
            if value <= 0 or self.smallest * 4 < value < self.largest / 4:
                continue
            rows = window.shared(name, self.records)
            found = _NAME.fullmatch(name)
            if not rows.size or found is None:
                continue
            middle = median(window.points.last(rows, self.records)[0])
            strength = max(middle / self.largest, self.smallest / max(middle, 1e-30))
            if strength >= self.release and math.isfinite(strength):
                task_id = None if found[2] is None else int(found[2])
                yield Sign(
                    'shared' if task_id is None else 'task',
                    strength,
                    () if task_id is None else (task_id,),
                    found[1],
                    {name: middle},
                    {'group': found[1], 'middle': middle},
                )
