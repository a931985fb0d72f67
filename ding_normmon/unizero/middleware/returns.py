"""Middleware that keeps the returns of every task, for the progress line and the checkpoint, and writes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from ding.framework.context import OnlineRLContext

from ding_normmon.destinations.selection import FEW_TASKS
from ding_normmon.destinations.tensorboard.charts import tag_of
from ding_normmon.destinations.tensorboard.tags import OVERVIEW
from ding_normmon.integrations.ding_engine.announced import announce

__all__ = ['ReturnTracker', 'ReturnWriter', 'TaskReturns']

_STEPS = 'collect/environment_steps'


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


class ReturnWriter:
    """Write the returns of every task, and the environment steps so far, at the current learner iteration.

    ``collect/{task}/return`` and ``collect/{task}/episode_length`` are means over the episodes that ended in this loop,
    ``collect/{task}/mean_return`` is the mean over the last episodes of training, ``eval/{task}/return`` that of an
    evaluation. A loop in which no episode ended has no point of theirs; neither has one without a learner step, whose
    point would fall on the previous one. ``random_policy/{task}/return`` is written once. Up to 12 tasks have
    their mean returns in TensorBoard's overview as well.

    Arguments:
        writer: has ``add_scalar(tag, value, step)``, such as DI-engine's, which writes on rank 0 only.
        tasks: the returns of every task, by global task id; they hold this loop's already.
    """

    def __init__(self, writer: Any, tasks: Sequence[TaskReturns]) -> None:
        self._writer = writer
        self._tasks = tasks
        announce(
            writer,
            [
                _STEPS,
                *(
                    tag_of(f'{where}/{task.name}/{what}')
                    for task in tasks
                    for where, what in (
                        ('eval', 'return'),
                        ('collect', 'return'),
                        ('collect', 'mean_return'),
                        ('collect', 'episode_length'),
                        ('random_policy', 'return'),
                    )
                ),
            ],
        )
        self._last_iteration = 0

    def __call__(self, ctx: OnlineRLContext) -> None:
        summaries = (getattr(ctx, 'collect_summaries', None) or {}) if ctx.train_iter > self._last_iteration else {}
        if not self._last_iteration and ctx.train_iter:
            for task in self._tasks:
                if task.random is not None:
                    self._writer.add_scalar(f'random_policy/{task.name}/return', task.random, ctx.train_iter)
        if ctx.train_iter > self._last_iteration:
            self._writer.add_scalar(_STEPS, float(ctx.env_step), ctx.train_iter)
        self._last_iteration = ctx.train_iter
        for task_id, summary in sorted(summaries.items()):
            task = self._tasks[task_id]
            if summary.returns:
                for what, value in (
                    ('return', float(np.mean(summary.returns))),
                    ('mean_return', task.trained),
                    ('episode_length', float(np.mean(summary.lengths))),
                ):
                    self._writer.add_scalar(f'collect/{task.name}/{what}', value, ctx.train_iter)
                if len(self._tasks) <= FEW_TASKS:
                    self._writer.add_scalar(f'{OVERVIEW}collect/{task.name}/mean_return', task.trained, ctx.train_iter)
        for task_id, value in sorted((getattr(ctx, 'eval_returns', None) or {}).items()):
            self._writer.add_scalar(f'eval/{self._tasks[task_id].name}/return', value, ctx.train_iter)
