"""From the rows of all ranks to a record that is judged, kept and handed to every destination."""

from __future__ import annotations

from collections import deque

from ding_normmon.core.record import Record
from ding_normmon.monitor.budget.throttle import Throttle
from ding_normmon.monitor.derive import RecordBuilder
from ding_normmon.monitor.foundation import Foundation
from ding_normmon.rows.table import Batch, RowTable

__all__ = ['Publication']

_RECORDS_KEPT = 1024


class Publication:
    """Where the reducer hands complete iterations, in its background thread on rank 0.

    Arguments:
        base: what is measured and where records go.
        throttle: has metrics that cost too much measured less often.
        builder: asks the metrics for their figures; another one takes its place when they are prepared again.

    Attributes:
        records: the last records that nobody has taken.
    """

    def __init__(self, base: Foundation, throttle: Throttle, builder: RecordBuilder) -> None:
        self.records: deque[Record] = deque(maxlen=_RECORDS_KEPT)
        self.builder = builder
        self._base = base
        self._throttle = throttle
        self._changes: deque[tuple[int, str]] = deque(maxlen=16)

    def note_change(self, iteration: int, note: str) -> None:
        """Put a note on the first record from an iteration on."""
        self._changes.append((iteration, note))

    def take(self, iteration: int, batches: list[Batch], missing: int) -> None:
        """Make the record of one iteration of its batches, by rank, and publish it.

        Arguments:
            iteration: the iteration that was measured.
            batches: what the ranks sent.
            missing: how many ranks sent nothing.
        """
        base = self._base
        table = RowTable(base.sharded.whole(batches), complete=missing == 0)
        for key in table.unequal:
            base.lost_data.count(
                f'metric_{key.metric}', f'{key}: ranks sent vectors of different lengths; left out'
            )
        record = self.builder.derive(table, iteration)
        if base.transport.world_size > 1:
            record.scalars['monitor/missing_ranks'] = float(missing)
        record.notes.update(base.control.take_notes())
        while self._changes and self._changes[0][0] <= iteration:
            record.notes['groups'] = self._changes.popleft()[1]
        record.notes.update(self._throttle.keep_to_budget(iteration, record.scalars))
        for reason, amount in base.lost_data.take().items():
            record.scalars[f'monitor/lost/{reason}'] = float(amount)
        record = base.diagnosis.judge(record)
        self.records.append(record)
        for worker in base.workers:
            worker.enqueue(record)

    def rest(self) -> None:
        """Let the destinations write: nothing further is complete for now."""
        for worker in self._base.workers:
            worker.flush()
