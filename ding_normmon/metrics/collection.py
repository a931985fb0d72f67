"""Returns of the episodes that ended, and steps of the environment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

import numpy as np

from ding_normmon.metrics.base import Chart, Figure, LearnerStep, RowBuffer, RowKey, RowTable
from ding_normmon.metrics.kernels.device_signals import write_number
from ding_normmon.metrics.mixins import Finishing
from ding_normmon.rows import moments
from ding_normmon.rows.moments import COUNT, MEAN

__all__ = ['Collection']

_SECTION = 'Signals'


class Collection(Finishing):
    """``return/{collect,eval}[_task{i}]/{mean,std,max,min}`` and ``data/env_steps_per_iteration``.

    Returns appear in the first record after they are known, and only in that one. If a program reports only the mean of
    several episodes, that mean counts as one return.
    """

    name: ClassVar[str] = 'collection'
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure(
            pattern='return/{collect,eval}[_task{i}]/{mean,std,max,min}',
            definition=(
                'returns of the episodes that ended since the last record, in training and in evaluation, of all '
                'ranks; of a program that writes only means of several episodes, of those means'
            ),
            unit='reward',
            hook_point='end of the step',
            bad_value='falling',
            section=_SECTION,
            signed=True,
            chart=Chart('Losses and returns', 'Returns of all tasks'),
            task_chart=Chart('Losses and returns', 'Returns: {signal}, {statistic}'),
        ),
        Figure(
            pattern='data/env_steps_per_iteration',
            definition='steps of the environment that were collected for each learner iteration since the last record',
            unit='steps per iteration',
            hook_point='end of the step',
            bad_value='0: nothing new is collected',
            section=_SECTION,
            chart=Chart('Data', 'Steps of the environment for each iteration'),
        ),
    )
    hook_points: ClassVar[tuple[str, ...]] = ('backward_end',)

    def __init__(self) -> None:
        self._returns: dict[tuple[str, int | None], list[float]] = {}
        self._env_steps: int | None = None
        self._before: tuple[int, int] | None = None
        self._iteration = 0

    def note_returns(self, where: str, returns: Iterable[float], task_id: int | None = None) -> None:
        """Take returns that have become known: ``'collect'`` or ``'eval'``."""
        kept = self._returns.setdefault((where, task_id), [])
        kept += [float(value) for value in returns]
        # Only the newest are kept if no step is measured for long.
        del kept[:-_MOST_KEPT]

    def note_env_steps(self, total: int) -> None:
        """Take the number of environment steps that this rank has collected since the run began."""
        self._env_steps = total

    def begin(self, step: LearnerStep) -> None:
        """Remember which learner iteration it is."""
        self._iteration = step.iteration

    def finish(self, rows: RowBuffer) -> None:
        """Write the returns of this rank's tasks, and the environment steps."""
        returns, self._returns = self._returns, {}
        for (where, task_id), values in returns.items():
            if values and (task_id is None or task_id in self.setup.task_ids):
                rows.write(RowKey(self.name, where, task_id), moments.row_of(np.array(values)))
        if self._env_steps is not None:
            before, self._before = self._before, (self._iteration, self._env_steps)
            if before is not None and self._iteration > before[0] and self._env_steps >= before[1]:
                rate = (self._env_steps - before[1]) / (self._iteration - before[0])
                write_number(RowKey(self.name, 'env_steps', None, 'rate'), rate, rows)

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield the returns of every task and of all, and the steps of all ranks."""
        for name, row in table.named(self.name):
            for statistic, value in moments.statistics(row):
                yield f'return/{name}/{statistic}', value
        rate = table.get(RowKey(self.name, 'env_steps', None, 'rate'))
        if rate is not None:
            yield 'data/env_steps_per_iteration', float(rate[MEAN] * rate[COUNT])


_MOST_KEPT = 4096
"""Most returns of one task that are kept between two records."""
