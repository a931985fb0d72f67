"""From what a step has left on the host to the batch that is handed on: names and rows for the numbers."""

from __future__ import annotations

import operator
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ding_normmon.moments import Row
from ding_normmon.quantities import OwnCost, Quantity
from ding_normmon.quantity_calls import QuantityCalls
from ding_normmon.rows import Batch, Pending, RowBuffer, RowKey, Vector

__all__ = ['Unpacking', 'WaitingBatch']


class WaitingBatch:
    """A batch that is made when somebody asks for it first: the learner does not wait for the names of its numbers.

    Arguments:
        make: makes it; called once, in whichever thread asks first.

    Example:
        >>> waiting = WaitingBatch(lambda: Batch(5, (), np.zeros((0, 6))))
        >>> waiting.is_made, waiting.get().iteration, waiting.is_made
        (False, 5, True)
    """

    def __init__(self, make: Callable[[], Batch]) -> None:
        self._make: Callable[[], Batch] | None = make
        self._lock = threading.Lock()
        self._batch: Batch | None = None

    @property
    def is_made(self) -> bool:
        """Whether somebody has asked."""
        return self._batch is not None

    def get(self) -> Batch:
        """Return the batch."""
        with self._lock:
            if self._batch is None:
                assert self._make is not None
                self._batch, self._make = self._make(), None
            return self._batch


class Unpacking:
    """Makes batches of the steps of one rank, for as long as its quantities are prepared for the same groups.

    Arguments:
        quantities: all quantities, prepared.
        spans: the raw cells of each.
        buffer: where they and the rows of a step are written.
        calls: keeps what a quantity raises from whoever asks.
        messages: that this rank sends for a record.
    """

    def __init__(
        self,
        quantities: Sequence[Quantity],
        spans: Sequence[slice],
        buffer: RowBuffer,
        calls: QuantityCalls,
        messages: int,
    ) -> None:
        self._quantities = quantities
        self._spans = spans
        self._buffer = buffer
        self._calls = calls
        self._messages = messages

    def take(self, pending: Pending) -> WaitingBatch:
        """Take the numbers of a step that has arrived on the host; nothing of them is in the buffer afterwards."""
        held = {quantity.name: quantity.state_bytes() for quantity in self._quantities}
        if pending.slot is None:
            return WaitingBatch(lambda: self._batch(pending, *self._buffer.read(pending), held))
        # Others wait for its slot.
        rows, cells = self._buffer.read(pending)
        return WaitingBatch(lambda: self._batch(pending, rows, cells, held))

    def _batch(self, pending: Pending, rows: Row, cells: Row, held: dict[str, int]) -> Batch:
        keys, tables = list(pending.keys), [rows]
        vectors: dict[RowKey, Vector] = {
            key: vector
            for key, vector in pending.vectors.items()
            if not isinstance(vector, tuple) and key.quantity not in pending.failed
        }
        for quantity, own_cells in self._measured(pending, cells):
            with self._calls.guarded(quantity, 'unpack', {}):
                own_keys, own_rows = quantity.unpack_rows(own_cells)
                if own_rows.shape != (len(own_keys), 6):
                    raise ValueError(f'{len(own_keys)} keys for rows of shape {own_rows.shape}')
                keys.extend(own_keys)
                tables.append(own_rows)
                vectors.update(quantity.unpack_vectors(own_cells))
        for quantity in self._quantities:
            if isinstance(quantity, OwnCost):
                totals = (pending.milliseconds, self._buffer.bytes, self._messages)
                sizes = self._bytes(held, keys, vectors)
                own_keys, own_rows = quantity.table_of(totals, pending.spent, sizes, pending.active)
                keys.extend(own_keys)
                tables.append(own_rows)
        return Batch(pending.iteration, tuple(keys), np.concatenate(tables), vectors)

    def _measured(self, pending: Pending, cells: Row) -> Iterator[tuple[Quantity, Row]]:
        for quantity, span in zip(self._quantities, self._spans, strict=True):
            if quantity.name in pending.active and any(point in pending.fired for point in quantity.hook_points):
                yield quantity, cells[span]

    def _bytes(self, held: dict[str, int], keys: Sequence[RowKey], vectors: dict[RowKey, Vector]) -> dict[str, int]:
        """Return what every quantity holds between steps and sends for one record."""
        sizes = dict(held)
        for quantity, span in zip(self._quantities, self._spans, strict=True):
            sizes[quantity.name] += 8 * (span.stop - span.start)
        for name, count in Counter(map(operator.itemgetter(0), keys)).items():
            sizes[name] += 48 * count
        for key, vector in vectors.items():
            sizes[key.quantity] += vector.nbytes
        return sizes
