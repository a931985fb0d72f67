"""Middleware that keeps the returns of every task for the progress line, the checkpoint and the final table."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from ding.framework.context import OnlineRLContext

__all__ = ['ReturnTracker', 'TaskReturns']


class TaskReturns:
    """The returns of one task: of its last training episodes, of its last evaluation and of a random policy.

    Arguments:
        name: the task's name.
        window: number of training episodes in a mean.
    """

    def __init__(self, name: str, window: int) -> None:
        self.name = name
        self.recent: deque[float] = deque(maxlen=window)
        self.episodes = 0
        self.evaluated: float | None = None
        self.random: float | None = None

    @property
    def trained(self) -> float | None:
        """Mean return of the last training episodes; None before the first one has ended."""
        return float(np.mean(self.recent)) if self.recent else None


class ReturnTracker:
    """Follow the returns of all tasks of all ranks.

    Arguments:
        task_names: the name of every task of the run, by global task id.
        window: number of training episodes in a mean.
    """

    def __init__(self, task_names: Sequence[str], window: int = 20) -> None:
        self.tasks = [TaskReturns(name, window) for name in task_names]

    def __call__(self, ctx: OnlineRLContext) -> None:
        for task_id, summary in (getattr(ctx, 'collect_summaries', None) or {}).items():
            self.tasks[task_id].recent.extend(summary.returns)
            self.tasks[task_id].episodes += len(summary.returns)
        for task_id, value in (getattr(ctx, 'eval_returns', None) or {}).items():
            self.tasks[task_id].evaluated = value

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Return the returns of every task, by task name, for a checkpoint."""
        return {
            task.name: {
                'recent': list(task.recent),
                'episodes': task.episodes,
                'evaluated': task.evaluated,
                'random': task.random,
            }
            for task in self.tasks
        }

    def load_state_dict(self, state: dict[str, dict[str, Any]]) -> None:
        """Restore what :meth:`state_dict` returned; tasks that are not in it stay unchanged."""
        for task in self.tasks:
            if task.name in state:
                saved = state[task.name]
                task.recent.extend(saved['recent'])
                task.episodes, task.evaluated, task.random = saved['episodes'], saved['evaluated'], saved['random']
