"""Clipping leaves nothing of the gradient."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.core.finding import Severity
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window
from ding_normmon.diagnose.wording import Words

__all__ = ['ClippedToZero']


@dataclass
class ClippedToZero(Rule):
    """A clip call multiplies finite gradients by 0, again and again: the weights do not learn any more.

    The norm that the call computes is infinite although every entry is finite, because squares of entries above 1e19
    overflow in float32 (above 256 in float16); or an optimizer drops every gradient above a limit.
    """

    name: ClassVar[str] = 'clipped_to_zero'
    advice: ClassVar[str] = (
        'Go back to a checkpoint before the gradient jumped, and lower the learning rate or the weight of the loss '
        'that jumped: a clip cannot repair it, because max_norm divided by a norm that overflows is 0.'
    )
    words: ClassVar[Words] = {
        'en': {
            'sized': 'The gradient of {model}, whose norm is {norm:.3g}, was multiplied by 0 when it was clipped: '
            'nothing is learnt.',
            'zero': 'The gradient of {model} was multiplied by 0 when it was clipped: nothing is learnt.',
        },
        'zh': {
            'sized': '{model} 的梯度（范数 {norm:.3g}）在裁剪时被乘以 0：模型没有学到任何东西。',
            'zero': '{model} 的梯度在裁剪时被乘以 0：模型没有学到任何东西。',
            'advice': '回到梯度跳变之前的检查点，降低学习率或跳变的那项损失的权重：裁剪无法修复它，'
            '因为 max_norm 除以溢出的范数等于 0。',
        },
    }
    reads: ClassVar[tuple[str, ...]] = ('clip/',)
    follows: ClassVar[bool] = False
    judges_all: ClassVar[bool] = True

    severity: Severity = 'error'
    warmup: int = 0

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per clip call."""
        for name, coefficient in window.matching(r'clip/[^/]+/coefficient').items():
            if coefficient == 0 and not window.matching(r'monitor/nonfinite/grad/.*'):
                model = name.split('/')[1]
                norms = {'grad/model/_total_norm', f'grad/{model}/_total_norm'} & window.record.scalars.keys()
                evidence = {name: coefficient, **{norm: window.record.scalars[norm] for norm in sorted(norms)}}
                largest = max((window.record.scalars[norm] for norm in norms), default=0.0)
                values: dict[str, float | str] = {'model': model, 'norm': largest}
                yield Sign('sized' if norms else 'zero', group=model, evidence=evidence, values=values)
