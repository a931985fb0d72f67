"""Gradients do not begin at zero."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.diagnose.invariants.invariant import ExpectedInvariant
from ding_normmon.diagnose.rule import Sign, Words
from ding_normmon.diagnose.window import Window

__all__ = ['GradientLeftover']


@dataclass
class GradientLeftover(ExpectedInvariant):
    """The gradients of the last learner step are still there when the next one goes backward.

    Within one learner step gradients may be added up over any number of backward passes; expected is that the first of
    them finds none. An optimizer that rests in a step is not meant.
    """

    name: ClassVar[str] = 'gradient_leftover'
    advice: ClassVar[str] = 'Call zero_grad() of every optimizer once in each learner step.'
    words: ClassVar[Words] = {
        'en': {
            'left': "Gradients of the last learner step are added to this one's: nobody has set them to zero in "
            'between.',
        },
        'zh': {
            'left': '上一学习步的梯度被累加到了这一步：其间没有清零。',
            'advice': '在每个学习步中对每个优化器调用一次 zero_grad()。',
        },
    }
    reads: ClassVar[tuple[str, ...]] = ('loss/backward',)

    confirm: int = 3

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign."""
        scalars = window.record.scalars
        count = scalars.get('broken/leftover_gradient', 0.0)
        # Where the optimizer did not step, a cycle of accumulation goes on.
        if count and scalars.get('step/optimizer_steps', 0.0):
            yield Sign(
                'left',
                evidence={'broken/leftover_gradient': count},
            )
