"""Makes the batch of a step: gives names to the numbers that have reached the host."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from ding_normmon.metrics import Metric, OwnCost
from ding_normmon.metrics.mixins import DeviceCells
from ding_normmon.monitor.metric_calls import MetricCalls
from ding_normmon.rows.buffer import Pending, RowBuffer
from ding_normmon.rows.moments import Row
from ding_normmon.rows.table import Batch, RowKey, Vector
from ding_normmon.rows.waiting_batch import WaitingBatch

__all__ = ['BatchBuilder']

_MOST_KEYS = 1 << 16


class BatchBuilder:
    """Makes the batches of one rank while its metrics are prepared for the same groups.

    Arguments:
        metrics: all metrics, prepared.
        spans: metrics with raw cells, and where these are.
        buffer: holds the cells and rows of a step.
        calls: counts the exceptions of metrics.
        messages: number of messages that this rank sends for a record.
    """

    def __init__(
        self,
        metrics: Sequence[Metric],
        spans: Sequence[tuple[DeviceCells, slice]],
        buffer: RowBuffer,
        calls: MetricCalls,
        messages: int,
    ) -> None:
        self._own_costs = [metric for metric in metrics if isinstance(metric, OwnCost)]
        self._spans = spans
        self._buffer = buffer
        self._calls = calls
        self._messages = messages
        self._names = frozenset(metric.name for metric in metrics)
        self._good: set[RowKey] = set()
        self._cell_bytes = sum(8 * (span.stop - span.start) for _, span in spans)

    def take(self, pending: Pending) -> WaitingBatch:
        """Take the numbers of a step that has arrived on the host out of the buffer."""
        held = self._calls.state_bytes()
        vectors = sum(vector.nbytes for vector in pending.vectors.values() if not isinstance(vector, tuple))
        size = 48 * len(pending.keys) + self._cell_bytes + vectors
        if pending.slot is None:
            return WaitingBatch(lambda: self._batch(pending, *self._buffer.read(pending), held), size)
        # Read now, because later steps need its slot.
        rows, cells = self._buffer.read(pending)
        return WaitingBatch(lambda: self._batch(pending, rows, cells, held), size)

    def _batch(self, pending: Pending, rows: Row, cells: Row, held: dict[str, int]) -> Batch:
        keys, tables = list(pending.keys), [rows]
        vectors: dict[RowKey, Vector] = {
            key: vector
            for key, vector in pending.vectors.items()
            if not isinstance(vector, tuple) and self._is_known(key) and key.metric not in pending.failed
        }
        for metric, own_cells in self._measured(pending, cells):
            with self._calls.guarded(metric, 'unpack'):
                own_keys, own_rows = metric.unpack_rows(own_cells)
                if own_rows.shape != (len(own_keys), 6) or own_rows.dtype.kind != 'f':
                    raise ValueError(f'{len(own_keys)} keys for rows of shape {own_rows.shape}, {own_rows.dtype}')
                keys.extend(own_keys)
                tables.append(own_rows)
                vectors.update(metric.unpack_vectors(own_cells))
        table = np.concatenate(tables)
        if not self._all_known(keys):
            keys, table = self._known(keys, table)
        for cost in self._own_costs:
            totals = (pending.milliseconds, self._buffer.bytes, self._messages)
            sizes = self._bytes(held, keys, vectors)
            own_keys, own_rows = cost.table_of(totals, pending.spent, sizes, pending.active)
            keys.extend(own_keys)
            table = np.concatenate((table, own_rows))
        return Batch(pending.iteration, tuple(keys), table, vectors, pending.watched)

    def _all_known(self, keys: Sequence[RowKey]) -> bool:
        # Usually every record has the same keys.
        try:
            return self._good.issuperset(keys)
        except TypeError:
            return False

    def _known(self, keys: Sequence[RowKey], table: Row) -> tuple[list[RowKey], Row]:
        """Leave out the rows with invalid keys."""
        if len(self._good) > _MOST_KEYS:
            self._good.clear()
        places = [index for index, key in enumerate(keys) if self._is_known(key)]
        known = [keys[index] for index in places]
        self._good.update(known)
        return known, table[places]

    def _is_known(self, key: RowKey) -> bool:
        if (
            isinstance(key, RowKey)
            and key.metric in self._names
            and isinstance(key.name, str)
            and isinstance(key.part, str)
            and (key.task_id is None or isinstance(key.task_id, (int, np.integer)))
        ):
            return True
        self._calls.lost_data.count(
            'row_key', f'{key!r} is not a valid key; expected RowKey(metric, name, task id or None, part)'
        )
        return False

    def _measured(self, pending: Pending, cells: Row) -> Iterator[tuple[DeviceCells, Row]]:
        for metric, span in self._spans:
            if metric.name in pending.active and any(point in pending.fired for point in metric.hook_points):
                yield metric, cells[span]

    def _bytes(self, held: dict[str, int], keys: Sequence[RowKey], vectors: dict[RowKey, Vector]) -> dict[str, int]:
        """Return the bytes that each metric holds between steps and sends for one record."""
        sizes = dict(held)
        for metric, span in self._spans:
            sizes[metric.name] += 8 * (span.stop - span.start)
        for name, count in Counter(map(operator.itemgetter(0), keys)).items():
            sizes[name] += 48 * count
        for key, vector in vectors.items():
            sizes[key.metric] += vector.nbytes
        return sizes
