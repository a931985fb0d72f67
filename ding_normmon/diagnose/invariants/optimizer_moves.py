"""The optimizer moves other parameters than it should."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.diagnose.invariants.invariant import ExpectedInvariant
from ding_normmon.diagnose.invariants.optimizer_holds import signs_by_owner, words_of_owners
from ding_normmon.diagnose.rule import Sign, Words
from ding_normmon.diagnose.window import Window

__all__ = ['FrozenParameterMoves', 'ParameterStandsStill']


@dataclass
class ParameterStandsStill(ExpectedInvariant):
    """A parameter with a gradient no longer moves, although its optimizer steps as before.

    Expected of a parameter that has moved in each of eight measured steps before, as long as its gradient is above a
    hundredth and the learning rate above a tenth of the largest it had.
    """

    name: ClassVar[str] = 'parameter_stands_still'
    advice: ClassVar[str] = (
        'Look at what rounds or writes back the weights (a copy in another dtype, a state dict that is loaded again '
        'and again), and at whether the optimizer steps this parameter or a stale copy of it.'
    )
    words: ClassVar[Words] = words_of_owners(
        'has a gradient and is held by an optimizer, but does not move.',
        '有梯度且被优化器持有，但不再变化。',
        '查看是什么在舍入或写回权重（另一种 dtype 的副本、反复加载的 state dict），'
        '以及优化器更新的是该参数还是过期的副本。',
    )
    reads: ClassVar[tuple[str, ...]] = ('learning_rate/',)

    confirm: int = 2

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task, and one for shared groups."""
        return signs_by_owner(window, 'still')


@dataclass
class FrozenParameterMoves(ExpectedInvariant):
    """An optimizer's step moves a parameter that is frozen (``requires_grad=False``).

    Momentum, or a weight decay, moves what still has an old gradient, even one of zero.
    """

    name: ClassVar[str] = 'frozen_parameter_moves'
    advice: ClassVar[str] = (
        'Set its .grad to None when it is frozen (zero_grad(set_to_none=True)), or take it out of the optimizer.'
    )
    words: ClassVar[Words] = words_of_owners(
        'is frozen, but moved by the optimizer.',
        '已冻结，却仍被优化器更新。',
        '冻结时把 .grad 设为 None（zero_grad(set_to_none=True)），或将其移出优化器。',
    )
    reads: ClassVar[tuple[str, ...]] = ('learning_rate/',)

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task, and one for shared groups."""
        return signs_by_owner(window, 'frozen')
