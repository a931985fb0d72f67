"""Steps whose rows are on their way to the host, until they are handed to the reduction."""

from __future__ import annotations

from collections import deque

from ding_normmon.core.black_box import BlackBox
from ding_normmon.core.record import Record
from ding_normmon.monitor.foundation import Foundation
from ding_normmon.monitor.prepared import Prepared
from ding_normmon.ranks.reducer import Reducer
from ding_normmon.rows.buffer import Pending
from ding_normmon.rows.table import RowTable
from ding_normmon.rows.waiting_batch import WaitingBatch

__all__ = ['Arrivals']


class Arrivals:
    """Hands measured steps on in order, and waits for the device only if asked to.

    Arguments:
        base: has the sharded groups and the configuration.
        reducer: receives the batches.
        black_box: keeps what this rank measures; None for none.

    Attributes:
        pending: steps whose rows may still be on their way.
        last_local: this rank's own figures of the last step, with ``merge_train_output``.
    """

    def __init__(self, base: Foundation, reducer: Reducer, black_box: BlackBox | None = None) -> None:
        self.pending: deque[Pending] = deque()
        self.last_local: Record | None = None
        self._base = base
        self._reducer = reducer
        self._box = black_box
        self._waiting: deque[WaitingBatch] = deque()

    def collect(self, prepared: Prepared, wait: bool = False) -> None:
        """Hand on every step whose rows have arrived; with ``wait``, all of them."""
        while self.pending:
            pending = self.pending[0]
            if wait:
                pending.wait()
            elif not pending.arrived():
                return
            self.pending.popleft()
            waiting = prepared.batches.take(pending)
            if self._base.config.merge_train_output and not pending.watched:
                local = RowTable(self._base.sharded.whole([waiting.get()]), final=False)
                self.last_local = prepared.records.derive(local, pending.iteration)
            while self._waiting and self._waiting[0].is_made:
                self._waiting.popleft()
            self._waiting.append(waiting)
            if self._box is not None:
                self._box.keep_own(waiting.get)
            self._reducer.submit(waiting)

    def settle(self, prepared: Prepared) -> None:
        """Hand on everything and make all batches, because the metrics are about to get other groups."""
        self.collect(prepared, wait=True)
        for waiting in self._waiting:
            waiting.get()
