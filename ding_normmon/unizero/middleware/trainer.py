"""Middleware that does one learner step."""

from __future__ import annotations

from typing import Any

from ding.framework.context import OnlineRLContext

__all__ = ['MultiTaskTrainer']


class MultiTaskTrainer:
    """Train on ``ctx.train_data`` once; every rank must have it, even if the list is empty.

    Output of ctx: ``train_output``, the list of this loop's outputs, the newest last; ``train_iter``, increased by 1.

    Arguments:
        policy: has ``_forward_learn``.
    """

    def __init__(self, policy: Any) -> None:
        self._policy = policy

    def __call__(self, ctx: OnlineRLContext) -> None:
        if ctx.train_data is None:
            return
        output = self._policy._forward_learn(ctx.train_data)
        ctx.train_output = [*(ctx.train_output or []), output]
        ctx.train_iter += 1
