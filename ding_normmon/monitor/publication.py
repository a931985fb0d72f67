"""Makes the record of an iteration from the rows of all ranks, has it judged and publishes it."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from ding_normmon.core.black_box import BlackBox
from ding_normmon.core.finding import Finding
from ding_normmon.core.incident import Incident
from ding_normmon.core.metric_names import with_task
from ding_normmon.core.record import Record
from ding_normmon.metrics.square_norms import SquareNorms
from ding_normmon.monitor.budget.throttle import Throttle
from ding_normmon.monitor.budget.watching import Watching
from ding_normmon.monitor.derive import RecordBuilder
from ding_normmon.monitor.findings.incidents import Incidents
from ding_normmon.monitor.foundation import Foundation
from ding_normmon.rows.table import Batch, RowTable

__all__ = ['Publication']

_RECORDS_KEPT = 1024


class Publication:
    """Receives complete iterations from the reducer, in its background thread on rank 0.

    Every record is judged and kept in the black box. A watched record is not published; its findings and incidents go
    at once to the log and to destinations that take them between records, and to the others with the next published
    record.

    Arguments:
        base: the metrics and the destinations.
        throttle: measures expensive metrics less often.
        watching: decides how often there are records between the published ones.
        builder: derives records; replaced when the metrics are prepared again.
        black_box: keeps every record; None for none.

    Attributes:
        records: the last records that have not been taken.
        incidents: makes incidents.
    """

    def __init__(
        self,
        base: Foundation,
        throttle: Throttle,
        watching: Watching,
        builder: RecordBuilder,
        black_box: BlackBox | None,
    ) -> None:
        self.records: deque[Record] = deque(maxlen=_RECORDS_KEPT)
        self.builder = builder
        self._base = base
        self._throttle = throttle
        self._watching = watching
        self._box = black_box
        self.incidents = Incidents(base.lost_data, is_on=base.config.watch != 'off')
        # Notes and findings of watched records, for the next published one.
        self._notes: dict[str, str] = {}
        self._findings: list[Finding] = []
        self._processor_time = 0.0
        self._changes: deque[tuple[int, str]] = deque(maxlen=16)

    def note_change(self, iteration: int, note: str) -> None:
        """Put a note on the first record from an iteration on."""
        self._changes.append((iteration, note))

    def take(self, iteration: int, batches: list[Batch], missing: int) -> None:
        """Make the record of one iteration from the batches of all ranks; publish it unless it is only watched.

        Arguments:
            iteration: the iteration that was measured.
            batches: those of the ranks that sent one, by rank.
            missing: number of ranks that sent none.
        """
        base = self._base
        watched = all(batch.watched for batch in batches)
        table = RowTable(base.sharded.whole(batches), complete=missing == 0, final=not watched)
        for key in table.unequal:
            base.lost_data.count(
                f'metric_{key.metric}', f'{key}: ranks sent vectors of different lengths; left out'
            )
        record = self.builder.derive(table, iteration)
        if base.transport.world_size > 1:
            record.scalars['monitor/missing_ranks'] = float(missing)
        parameters = self._parameters(table)
        record = base.diagnosis.judge(record if watched else self._completed(record))
        if self._box is not None:
            self._box.keep_record(record, parameters)
        incidents = self.incidents.observe(record, parameters, base.tasks, self._watching.every)
        self._tell_at_once(record, tuple(incidents), watched)
        if watched:
            self._findings += record.findings
        else:
            self._publish(record)
        cost = record.scalars.get('monitor/cost/ms', 0.0)
        for name, note in self._watching.observe(watched, cost, self._milliseconds()):
            self._notes[name] = note
            if self._box is not None:
                self._box.keep_event(iteration, {'watch': self._watching.decided})

    def finish(self) -> None:
        """Publish the open incidents at the end of the run."""
        incidents = tuple(self.incidents.finish(self._watching.every))
        if incidents:
            self._tell_at_once(Record(max(0, self._base.control.iteration)), incidents, watched=True)

    def rest(self) -> None:
        """Let the destinations write, because no further record is complete for now."""
        for worker in self._base.workers:
            worker.flush()

    def _completed(self, record: Record) -> Record:
        """Add notes and figures about the monitor itself to a record that is published."""
        base, iteration = self._base, record.iteration
        record.notes.update({**base.control.take_notes(), **self._notes})
        self._notes.clear()
        while self._changes and self._changes[0][0] <= iteration:
            record.notes['groups'] = self._changes.popleft()[1]
        record.notes.update(self._throttle.keep_to_budget(iteration, record.scalars))
        for reason, amount in base.lost_data.take().items():
            record.scalars[f'monitor/lost/{reason}'] = float(amount)
        return record

    def _publish(self, record: Record) -> None:
        record = replace(record, findings=(*self._findings, *record.findings))
        self._findings.clear()
        self.records.append(record)
        for worker in self._base.workers:
            if not worker.takes_between:
                worker.enqueue(record)

    def _tell_at_once(self, record: Record, incidents: tuple[Incident, ...], watched: bool) -> None:
        """Pass findings and incidents on to destinations that do not wait for the next published record."""
        told = Record(record.iteration, findings=record.findings) if watched else record
        if watched and not told.findings and not incidents:
            return
        told = replace(told, incidents=incidents)
        for worker in self._base.workers:
            if worker.takes_between:
                worker.enqueue(told)

    def _parameters(self, table: RowTable) -> dict[str, float]:
        """Return the norms of single parameters' weights and gradients."""
        found: dict[str, float] = {}
        paths = self._base.paths
        for metric in self._base.metrics:
            if isinstance(metric, SquareNorms):
                for group, tasks in table.vectors_of(metric.name, 'parameters').items():
                    for task, sums in tasks.items():
                        known = paths.get((group, task), ())
                        if len(known) == len(sums):
                            start = f'parameter/{metric.family}/{with_task(group, task)}'
                            found.update(_norms(start, known, sums.tolist()))
        return found

    def _milliseconds(self) -> float:
        """Return the milliseconds of processor time in the background since the last call."""
        now = time.thread_time() + (0.0 if self._box is None else self._box.processor_time)
        spent, self._processor_time = now - self._processor_time, now
        return spent * 1e3


def _norms(start: str, paths: Iterable[str], sums: Iterable[float]) -> Iterable[tuple[str, float]]:
    return ((f'{start}/{path}', math.sqrt(value)) for path, value in zip(paths, sums, strict=True) if value > 0)
