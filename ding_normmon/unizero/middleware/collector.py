"""Middleware that collects game segments of this rank's tasks and shares all tasks' returns with every rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ding.framework.context import OnlineRLContext

from ding_normmon.unizero.environments import TaskEnvironment
from ding_normmon.unizero.ranks import gather_by_task
from ding_normmon.unizero.segment_collector import SegmentCollector

__all__ = ['CollectSummary', 'MultiTaskCollector']


@dataclass
class CollectSummary:
    """Summary of one collection of one task: its steps, and the returns of the episodes that ended."""

    steps: int
    returns: list[float]
    lengths: list[int]


class MultiTaskCollector:
    """Collect ``steps_per_environment`` steps in every environment of every local task.

    Output of ctx: ``trajectories``, (segments, metadata) by local task id; ``collect_summaries``, a
    :class:`CollectSummary` by global task id, of all ranks; ``env_step`` and ``env_episode``, counted over all ranks.

    Arguments:
        policy: has ``_forward_collect``, ``_reset_collect`` and ``task_cfg``.
        environments: the environments of each local task, by global task id; empty on a rank without tasks.
        steps_per_environment: steps of each environment per loop.
        temperature: function from the learner iteration to the temperature of the search's visit counts.
        epsilon: probability of a random action, if the policy is configured for epsilon-greedy collection.
    """

    def __init__(
        self,
        policy: Any,
        environments: Mapping[int, Sequence[TaskEnvironment]],
        steps_per_environment: int,
        temperature: Callable[[int], float],
        epsilon: float = 0.0,
    ) -> None:
        self._collectors = {
            task_id: SegmentCollector(policy, policy.task_cfg(task_id), task_id, task_environments)
            for task_id, task_environments in environments.items()
        }
        self._steps_per_environment = steps_per_environment
        self._temperature = temperature
        self._epsilon = epsilon

    def __call__(self, ctx: OnlineRLContext) -> None:
        temperature = self._temperature(ctx.train_iter)
        trajectories = {}
        summaries = {}
        for task_id, collector in self._collectors.items():
            collected = collector.collect(self._steps_per_environment, temperature, self._epsilon)
            trajectories[task_id] = (collected.segments, collected.metadata)
            summaries[task_id] = CollectSummary(collected.steps, collected.returns, collected.lengths)
        ctx.trajectories = trajectories
        ctx.collect_summaries = gather_by_task(summaries)
        ctx.env_step += sum(summary.steps for summary in ctx.collect_summaries.values())
        ctx.env_episode += sum(len(summary.returns) for summary in ctx.collect_summaries.values())

    def close(self) -> None:
        """Close all environments."""
        for collector in self._collectors.values():
            collector.close()
