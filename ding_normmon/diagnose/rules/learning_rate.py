"""A learning rate that no schedule means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.diagnose.rule import Rule, Sign, Words
from ding_normmon.diagnose.window import Window

__all__ = ['LearningRate']

_LEVEL = 8
"""Records for which a learning rate must stay as it is to count as one that was meant."""
_FEWEST = 2
"""Records for which it must be more than as good as 0."""


@dataclass
class LearningRate(Rule):
    """The learning rate of shared parts rises far above every level that it was kept at, or is as good as 0.

    A warm-up from 0 has no such level, and what decays to 0 at the end of a run is there only for a moment.

    Options:
        rise: factor on the highest level.
        nothing: fraction of the highest learning rate that counts as 0.
        part: share of the run that it must be that low.
        planned: the same share where a scheduler of torch's has brought it there.
    """

    name: ClassVar[str] = 'learning_rate'
    advice: ClassVar[str] = 'Look at the schedule of the learning rate, and at who else writes into the optimizer.'
    words: ClassVar[Words] = {
        'en': {
            'risen': 'The learning rate is {now:.3g}, {times:.3g} times the highest level that it was kept at.',
            'nothing': 'The learning rate is {now:.3g}, as good as 0; it was up to {highest:.3g}. Nothing is learnt.',
        },
        'zh': {
            'risen': '学习率为 {now:.3g}，是此前保持过的最高值的 {times:.3g} 倍。',
            'nothing': '学习率为 {now:.3g}，几乎为 0，此前最高为 {highest:.3g}；模型不再学习。',
            'advice': '查看学习率调度，以及还有谁在改写优化器。',
        },
    }
    reads: ClassVar[tuple[str, ...]] = ('learning_rate/',)
    follows: ClassVar[bool] = False

    confirm: int = 2
    clear: int = 4
    warmup: int = 3
    rise: float = 2.5
    nothing: float = 1e-3
    part: float = 0.05
    planned: float = 0.5

    def __post_init__(self) -> None:
        self._kept = self._highest = self._last = 0.0
        self._same = self._low = 0
        self._is_planned = False

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign."""
        now = window.departures.learning_rate
        if now is None:
            return
        self._same = self._same + 1 if abs(now - self._last) <= 0.01 * self._last else 0
        self._last = now
        if self._kept and now > self.rise * self._kept:
            values = {'now': now, 'times': now / self._kept}
            yield Sign('risen', tasks=(), group='learning_rate', evidence={'learning rate': now}, values=values)
            return
        if self._same >= _LEVEL:
            self._kept = max(self._kept, now)
        scalars = window.record.scalars
        if scalars.get('step/scheduler_steps'):
            self._is_planned = True
        if window.matching('broken/schedule/.*'):
            self._is_planned = False
        fell_at_once = not self._is_planned and now == 0.0 and self._kept > 0
        self._low = self._low + 1 if now <= self.nothing * self._highest else 0
        self._highest = max(self._highest, now)
        part = self.planned if self._is_planned else self.part
        if self._low and (fell_at_once or self._low > max(_FEWEST, part * window.points.records)):
            values = {'now': now, 'highest': self._highest}
            yield Sign('nothing', group='learning_rate', evidence={'learning rate': now}, values=values)
