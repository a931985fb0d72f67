"""Middleware that samples one batch per local task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ding.framework.context import OnlineRLContext

from ding_normmon.unizero.ranks import all_ranks
from ding_normmon.unizero.replay_buffer import TaskReplayBuffer

__all__ = ['MultiTaskSampler']


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
