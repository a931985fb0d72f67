"""What the monitor costs: its own milliseconds, bytes and messages, as a whole and by metric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import ClassVar

import numpy as np

from ding_normmon.core.common_figures import MONITOR_SECTION
from ding_normmon.metrics.base import Chart, Figure, Metric, RowKey, RowTable
from ding_normmon.rows.moments import MAXIMUM, MEAN, Row, constant_numbers

__all__ = ['OwnCost']


_figure = partial(Figure, section=MONITOR_SECTION)


class OwnCost(Metric):
    """``monitor/cost/{ms,bytes,messages}``: learner-thread milliseconds of the slowest rank, buffer bytes of the
    largest, messages of all; ``monitor/cost/{metric}/{ms,bytes,extra_backward}``: the same for one metric that was
    measured in this record, and the backward passes that it added.

    On an accelerator milliseconds are those in which the learner's thread was busy queueing work.
    """

    name: ClassVar[str] = 'own_cost'
    figures: ClassVar[tuple[Figure, ...]] = (
        _figure(
            'monitor/cost/ms',
            'learner-thread milliseconds of this record, slowest rank',
            'ms',
            chart=Chart('Cost', 'Learner-thread milliseconds of a record'),
        ),
        _figure('monitor/cost/bytes', 'fixed row storage, largest rank', 'bytes', chart=Chart('Cost', 'Bytes')),
        _figure(
            'monitor/cost/{metric}/ms',
            (
                'learner-thread milliseconds of one metric in this record, slowest rank; on an accelerator the '
                'time to queue its work'
            ),
            'ms',
            chart=Chart('Cost', 'Learner-thread milliseconds of the metrics'),
        ),
        _figure(
            'monitor/cost/{metric}/bytes',
            'what it keeps between steps and sends for this record, largest rank',
            'bytes',
            chart=Chart('Cost', 'Bytes'),
        ),
        _figure(
            'monitor/cost/{metric}/extra_backward',
            'backward passes that it added to this step',
            'count',
            chart=Chart('Cost', 'Extra backward passes'),
        ),
        _figure(
            'monitor/cost/messages',
            'messages of all ranks for this record',
            'count',
            chart=Chart('Cost', 'Messages of all ranks'),
        ),
    )

    def table_of(
        self,
        totals: tuple[float, int, int],
        milliseconds: Mapping[str, float],
        num_bytes: Mapping[str, int],
        extra_backward: Mapping[str, int],
    ) -> tuple[tuple[RowKey, ...], Row]:
        """Return keys and rows of what this rank has spent; the monitor asks last, when the figures are known.

        Arguments:
            totals: milliseconds, bytes and messages of the monitor.
            milliseconds: by metric.
            num_bytes: by metric, what it keeps between steps and sends.
            extra_backward: by metric, for those that were measured.
        """
        names = tuple(name for name in extra_backward if name != self.name)
        adding = tuple(name for name in names if extra_backward[name])
        keys = (
            *(RowKey(self.name, part) for part in ('ms', 'bytes', 'messages')),
            *(RowKey(self.name, name, part='ms') for name in names),
            *(RowKey(self.name, name, part='bytes') for name in names),
            *(RowKey(self.name, name, part='extra_backward') for name in adding),
        )
        values = [
            *totals,
            *(milliseconds.get(name, 0.0) for name in names),
            *(num_bytes[name] for name in names),
            *(extra_backward[name] for name in adding),
        ]
        return keys, np.array([constant_numbers(value) for value in values], dtype=np.float64)

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield the three figures."""
        for name, tasks in table.of(self.name).items():
            row = tasks[None]
            total = float(row[MEAN] * row[0]) if name == 'messages' else float(row[MAXIMUM])
            yield f'monitor/cost/{name}', total
        for part in ('ms', 'bytes', 'extra_backward'):
            for name, tasks in table.of(self.name, part).items():
                yield f'monitor/cost/{name}/{part}', float(tasks[None][MAXIMUM])
