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
                whose = f'The {found[1]}' if task_id is None else f'{window.call(task_id)}: its {found[1]}'
                yield Sign(
                    f'{whose} is moved by {middle:.2g} of its norm in each step.',
                    strength,
                    () if task_id is None else (task_id,),
                    found[1],
                    {name: middle},
                )
