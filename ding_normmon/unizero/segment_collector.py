"""Collects game segments of one task from a batch of environments that never wait for each other.

LightZero's own collectors either return whole episodes or lose the steps of segments that are unfinished when a call
ends. This one keeps unfinished segments from call to call: every environment step is in exactly one segment, and a
segment is padded with the true continuation of its episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from easydict import EasyDict
from lzero.mcts.buffer.game_segment import GameSegment
from numpy.typing import NDArray

from ding_normmon.unizero.environments import Observation, TaskEnvironment

__all__ = ['CollectedSegments', 'SegmentCollector']

VALUE_NAMES = ('predicted_value', 'searched_value')


@dataclass
class CollectedSegments:
    """The result of one call of :meth:`SegmentCollector.collect`."""

    segments: list[GameSegment] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    steps: int = 0


class EnvironmentTrack:
    """One environment, with its current segment and the one before, which waits for its padding.

    Arguments:
        environment: the environment.
        config: configuration of its task.
    """

    def __init__(self, environment: TaskEnvironment, config: EasyDict) -> None:
        self.environment = environment
        self.config = config
        self.begin_episode()

    def begin_episode(self) -> None:
        self.observation: Observation = self.environment.reset()
        self.episode_steps = 0
        self.waiting: tuple[GameSegment, NDArray[Any] | None] | None = None
        self.begin_segment()

    def begin_segment(self) -> None:
        self.segment = GameSegment(
            self.environment.action_space, game_segment_length=self.config.game_segment_length, config=self.config
        )
        self.segment.reset([self.observation['observation']])
        self.value_errors: list[float] = []

    def advance(self, decision: dict[str, Any]) -> float | None:
        """Take one step with the policy's decision; return the episode's return if it is over."""
        before = self.observation
        result = self.environment.step(decision['action'])
        self.segment.store_search_stats(decision['visit_count_distributions'], decision['searched_value'])
        self.segment.append(
            decision['action'],
            result.obs['observation'],
            result.reward,
            before['action_mask'],
            before['to_play'],
            before['timestep'],
        )
        predicted, searched = (float(np.asarray(decision[name]).item()) for name in VALUE_NAMES)
        self.value_errors.append(abs(predicted - searched))
        self.observation = result.obs
        self.episode_steps += 1
        return float(result.info['eval_episode_return']) if result.done else None

    def take_finished(self, is_done: bool) -> list[tuple[GameSegment, NDArray[Any] | None]]:
        """Return the segments that this step completed, padded if their episode went on."""
        finished = []
        if self.segment.is_full() or is_done:
            if self.waiting is not None:
                self._pad(self.waiting[0])
                finished.append(self.waiting)
            self.waiting = (self.segment, self._priorities())
            if is_done:  # nothing follows to pad with
                finished.append(self.waiting)
                self.waiting = None
            else:
                self.begin_segment()
        for segment, _ in finished:
            segment.game_segment_to_array()
        return finished

    def _pad(self, earlier: GameSegment) -> None:
        """Append the beginning of the current segment to ``earlier``, for its last value and policy targets."""
        pad = self.config.num_unroll_steps + self.config.td_steps
        first = self.config.model.frame_stack_num  # its first observation is already the last one of ``earlier``
        earlier.pad_over(
            self.segment.obs_segment[first : first + pad],
            self.segment.reward_segment[: pad - 1],
            self.segment.action_segment[:pad],
            self.segment.root_value_segment[:pad],
            self.segment.child_visit_segment[:pad],
        )

    def _priorities(self) -> NDArray[Any] | None:
        if not self.config.use_priority:
            return None  # the buffer then gives new data its highest priority so far
        return np.asarray(self.value_errors, dtype=np.float64) + 1e-6


class SegmentCollector:
    """Collects segments of one task, in batches over its environments.

    Arguments:
        policy: has ``_forward_collect`` and ``_reset_collect``.
        config: configuration of the task, ``policy.task_cfg(task_id)``; ``model.frame_stack_num`` must be 1.
        task_id: global id of the task.
        environments: the environments, all of this task.

    Raises:
        ValueError: ``frame_stack_num`` is not 1, or there is no environment.
    """

    def __init__(self, policy: Any, config: EasyDict, task_id: int, environments: Sequence[TaskEnvironment]) -> None:
        if config.model.frame_stack_num != 1:
            raise ValueError(f'frame_stack_num must be 1, got {config.model.frame_stack_num}')
        if not environments:
            raise ValueError(f'task {task_id} has no environment to collect from')
        self._policy = policy
        self._config = config
        self._task_id = task_id
        self._tracks = [EnvironmentTrack(environment, config) for environment in environments]
        self._environment_ids = np.arange(len(environments))
        self._policy._reset_collect(env_id=None, current_steps=0, reset_init_data=True, task_id=task_id)

    def collect(self, steps_per_environment: int, temperature: float, epsilon: float = 0.0) -> CollectedSegments:
        """Step every environment ``steps_per_environment`` times and return the segments completed on the way.

        A segment is complete when its episode ends or when the next segment, whose beginning pads it, is full.
        Incomplete segments are kept for the next call.
        """
        collected = CollectedSegments()
        for _ in range(steps_per_environment):
            decisions = self._decide(temperature, epsilon)
            for environment_id, track in enumerate(self._tracks):
                episode_return = track.advance(decisions[environment_id])
                is_done = episode_return is not None
                for segment, priorities in track.take_finished(is_done):
                    collected.segments.append(segment)
                    collected.metadata.append(self._metadata(segment, priorities, is_done))
                if episode_return is not None:
                    collected.returns.append(episode_return)
                    collected.lengths.append(track.episode_steps)
                    track.begin_episode()
                self._policy._reset_collect(
                    env_id=[environment_id] if is_done else environment_id,
                    current_steps=track.episode_steps,
                    reset_init_data=is_done,
                    task_id=self._task_id,
                )
            collected.steps += len(self._tracks)
        return collected

    def close(self) -> None:
        """Close the environments."""
        for track in self._tracks:
            track.environment.close()

    def _decide(self, temperature: float, epsilon: float) -> dict[int, dict[str, Any]]:
        observations = [track.observation for track in self._tracks]
        data = torch.from_numpy(np.stack([observation['observation'] for observation in observations]))
        with torch.no_grad():
            return self._policy._forward_collect(
                data.to(self._config.device),
                [observation['action_mask'] for observation in observations],
                temperature,
                [observation['to_play'] for observation in observations],
                epsilon,
                ready_env_id=self._environment_ids,
                timestep=[observation['timestep'] for observation in observations],
                task_id=self._task_id,
            )

    def _metadata(self, segment: GameSegment, priorities: NDArray[Any] | None, is_done: bool) -> dict[str, Any]:
        pad = self._config.num_unroll_steps + self._config.td_steps
        return {
            'priorities': priorities,
            'done': is_done,
            # The buffer subtracts this from the segment's length; a negative length would corrupt the buffer.
            'unroll_plus_td_steps': min(pad, len(segment.timestep_segment)),
        }
