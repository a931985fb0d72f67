"""The model's inputs leave the range that they had."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.diagnose.invariants.invariant import ExpectedInvariant
from ding_normmon.diagnose.rule import Sign, Words
from ding_normmon.diagnose.window import Window

__all__ = ['InputRange']


@dataclass
class InputRange(ExpectedInvariant):
    """The largest absolute value of an input is many times the largest that there was, or a tiny part of the smallest.

    Pixels that are no longer divided by 255 are the usual case, and that they are divided twice is the other.

    Options:
        factor: how many times.
    """

    name: ClassVar[str] = 'input_range'
    advice: ClassVar[str] = (
        'Look at how observations are scaled on their way to the model: not at all any more, or twice.'
    )
    words: ClassVar[Words] = {
        'en': {
            'range': 'The input {which} is up to {size:.3g} in size; before it was from {low:.3g} to {usual:.3g}.',
        },
        'zh': {
            'range': '输入 {which} 的绝对值达到 {size:.3g}；此前在 {low:.3g} 到 {usual:.3g} 之间。',
            'advice': '查看观测在送入模型前如何缩放：完全没有缩放，或缩放了两次。',
        },
    }
    reads: ClassVar[tuple[str, ...]] = ('inputs/',)

    confirm: int = 2
    settled: int = 10
    factor: float = 30.0

    def __post_init__(self) -> None:
        self._known: dict[str, tuple[int, float, float]] = {}

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per input."""
        scalars = window.record.scalars
        for name, high in window.matching('inputs/.+/max').items():
            which = name.removeprefix('inputs/').removesuffix('/max')
            size = max(abs(high), abs(scalars.get(f'inputs/{which}/min', high)))
            times, low, usual = self._known.get(which, (0, size, size))
            if times >= self.settled and usual > 0 and (size > self.factor * usual or size < low / self.factor):
                yield Sign(
                    'range',
                    group=f'inputs/{which}',
                    evidence={name: high},
                    values={'which': which, 'size': size, 'low': low, 'usual': usual},
                )
                continue
            self._known[which] = times + 1, min(low, size), max(usual, size)
