"""Middleware that samples and trains several times per collection, as DI-engine's ``OffPolicyLearner`` does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ding.framework.context import OnlineRLContext

from ding_normmon.unizero.ranks import all_ranks
from ding_normmon.unizero.replay_buffer import TaskReplayBuffer

__all__ = ['MultiTaskLearner', 'MultiTaskPusher', 'MultiTaskSampler', 'MultiTaskTrainer']


class MultiTaskPusher:
    """Move ``ctx.trajectories`` into the buffers and drop the oldest segments of a full buffer.

    Arguments:
        buffers: the replay buffer of each local task, by global task id.
    """

    def __init__(self, buffers: Mapping[int, TaskReplayBuffer]) -> None:
        self._buffers = buffers

    def __call__(self, ctx: OnlineRLContext) -> None:
        for task_id, trajectories in (ctx.trajectories or {}).items():
            self._buffers[task_id].push_game_segments(trajectories)
            self._buffers[task_id].remove_oldest_data_to_fit()
        ctx.trajectories = None


class MultiTaskSampler:
    """Put a list of (current_batch, target_batch, task_id) into ``ctx.train_data``, or None if data is short.

    All ranks decide this together, because a learner step is a collective: either every rank gets a list (an empty one
    on a rank without tasks) or none does. Waiting for every task also lets the first learner step, iteration 0, cover
    all of them.

    Arguments:
        policy: has ``task_cfg`` and ``task_view``.
        buffers: the replay buffer of each local task, by global task id.
    """

    def __init__(self, policy: Any, buffers: Mapping[int, TaskReplayBuffer]) -> None:
        self._policy = policy
        self._buffers = buffers
        self._batch_sizes = {task_id: int(policy.task_cfg(task_id).batch_size) for task_id in buffers}

    def __call__(self, ctx: OnlineRLContext) -> None:
        ctx.train_data = self.sample() if self.is_ready() else None

    def is_ready(self) -> bool:
        """Return whether every task of every rank has a full batch; a collective."""
        return all_ranks(all(buffer.is_ready(self._batch_sizes[task_id]) for task_id, buffer in self._buffers.items()))

    def sample(self) -> list[tuple[Any, Any, int]]:
        """Sample one batch of every local task."""
        data = []
        for task_id, buffer in self._buffers.items():
            current, target = buffer.sample(self._batch_sizes[task_id], self._policy.task_view(task_id))
            data.append((current, target, task_id))
        return data


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
