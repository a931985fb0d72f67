"""Middleware that pushes collected segments into the tasks' replay buffers."""

from __future__ import annotations

from collections.abc import Mapping

from ding.framework.context import OnlineRLContext

from ding_normmon.unizero.replay_buffer import TaskReplayBuffer

__all__ = ['MultiTaskPusher']


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
