"""Middleware that samples and trains several times per collection, as DI-engine's ``OffPolicyLearner`` does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ding.framework.context import OnlineRLContext

from ding_normmon.unizero.middleware.sampler import MultiTaskSampler
from ding_normmon.unizero.middleware.trainer import MultiTaskTrainer
from ding_normmon.unizero.replay_buffer import TaskReplayBuffer

__all__ = ['MultiTaskLearner']


class MultiTaskLearner:
    """Do ``updates`` learner steps, the same number on every rank, then let the policy end its learn phase.

    Nothing happens until every task of every rank has a full batch.

    Arguments:
        policy: the multi-task policy.
        buffers: the replay buffer of each local task, by global task id.
        updates: learner steps per loop.
        max_train_iter: the iteration at which training ends; the last loop does fewer steps if need be.
    """

    def __init__(
        self,
        policy: Any,
        buffers: Mapping[int, TaskReplayBuffer],
        updates: int,
        max_train_iter: int | None = None,
    ) -> None:
        self._policy = policy
        self._sampler = MultiTaskSampler(policy, buffers)
        self._trainer = MultiTaskTrainer(policy)
        self._updates = updates
        self._max_train_iter = max_train_iter

    def __call__(self, ctx: OnlineRLContext) -> None:
        updates = self._updates
        if self._max_train_iter is not None:
            updates = min(updates, self._max_train_iter - ctx.train_iter)
        if updates <= 0 or not self._sampler.is_ready():
            return
        for _ in range(updates):
            ctx.train_data = self._sampler.sample()
            self._trainer(ctx)
        ctx.train_data = None
        self._policy.end_learn_phase()
