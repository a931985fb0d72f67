"""LightZero's UniZero replay buffer, one per task, with a fix for removing old segments."""

from __future__ import annotations

from typing import Any

from lzero.mcts.buffer.game_buffer_unizero import UniZeroGameBuffer

__all__ = ['TaskReplayBuffer']


class TaskReplayBuffer(UniZeroGameBuffer):
    """The replay buffer of one task.

    A stored segment is padded with the beginning of the next one. LightZero's ``_remove`` counts the padded positions
    although pushing the segment did not, so every removal drops more positions than segments, and segments that can no
    longer be sampled pile up. Here pushing and removing count the same positions.

    Arguments:
        config: the task's configuration, ``policy.task_cfg(task_id)``.
    """

    def is_ready(self, batch_size: int) -> bool:
        """Return whether a batch can be sampled; sampling is without replacement."""
        return bool(self.get_num_of_transitions() >= batch_size)

    def _remove(self, excess_game_segment_index: int) -> None:
        removed = self.game_segment_buffer[:excess_game_segment_index]
        positions = sum(self._registered_positions(segment) for segment in removed)
        del self.game_segment_buffer[:excess_game_segment_index]
        del self.game_segment_game_pos_look_up[:positions]
        self.game_pos_priorities: Any = self.game_pos_priorities[positions:]
        self.base_idx += excess_game_segment_index

    def _registered_positions(self, segment: Any) -> int:
        return min(len(segment.action_segment), int(self._cfg.game_segment_length))
