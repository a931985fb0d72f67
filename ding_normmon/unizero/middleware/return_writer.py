"""Middleware that writes every task's returns to DI-engine's writer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ding.framework.context import OnlineRLContext

from ding_normmon.destinations.tensorboard.charts import tag_of
from ding_normmon.integrations.ding_engine.announced import announce

__all__ = ['ReturnWriter']


class ReturnWriter:
    """Write ``collect/{task}/return``, ``collect/{task}/episode_length`` and ``eval/{task}/return``.

    A point is the mean over the episodes that ended in this loop, at the current learner iteration. A loop in which no
    episode ended has no point; neither has one without a learner step, whose point would fall on the previous one.

    Arguments:
        writer: has ``add_scalar(tag, value, step)``, such as DI-engine's, which writes on rank 0 only.
        task_names: the name of every task of the run, by global task id.
    """

    def __init__(self, writer: Any, task_names: Sequence[str]) -> None:
        self._writer = writer
        self._task_names = task_names
        announce(
            writer,
            [
                tag_of(f'{where}/{name}/{what}')
                for name in task_names
                for where, what in (('eval', 'return'), ('collect', 'return'), ('collect', 'episode_length'))
            ],
        )
        self._last_iteration = 0

    def __call__(self, ctx: OnlineRLContext) -> None:
        summaries = (getattr(ctx, 'collect_summaries', None) or {}) if ctx.train_iter > self._last_iteration else {}
        self._last_iteration = ctx.train_iter
        for task_id, summary in sorted(summaries.items()):
            if summary.returns:
                name = self._task_names[task_id]
                self._writer.add_scalar(f'collect/{name}/return', float(np.mean(summary.returns)), ctx.train_iter)
                self._writer.add_scalar(
                    f'collect/{name}/episode_length', float(np.mean(summary.lengths)), ctx.train_iter
                )
        for task_id, value in sorted((getattr(ctx, 'eval_returns', None) or {}).items()):
            self._writer.add_scalar(f'eval/{self._task_names[task_id]}/return', value, ctx.train_iter)
