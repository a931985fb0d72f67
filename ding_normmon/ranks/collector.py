"""Rank 0's table of the ranks' reports by iteration: which iterations are ready, and which ranks are missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ding_normmon.core.lost_data import LostData
from ding_normmon.ranks.ownership import Ownership
from ding_normmon.rows.table import Batch

__all__ = ['Collector', 'Ready']


@dataclass(frozen=True)
class Ready:
    """One iteration that waits no longer.

    Arguments:
        iteration: 0-based learner iteration.
        batches: the ranks' batches, sorted by rank.
        missing: the ranks that did not report, ascending.
    """

    iteration: int
    batches: list[Batch]
    missing: tuple[int, ...]


@dataclass
class _Pending:
    batches: dict[int, Batch] = field(default_factory=dict)
    waiting_since: float | None = None

    @property
    def is_watched(self) -> bool:
        return all(batch.watched for batch in self.batches.values())


class Collector:
    """Matches batches by iteration and yields iterations in ascending order, each exactly once.

    Rank 0 sets the pace. From the moment rank 0 has reported an iteration (or a later one), the iteration waits for the
    other ranks for at most ``deadline`` seconds. Iterations that rank 0 has not reached are held back, so a rank that
    runs far ahead delays nobody. After a rank has missed a deadline, no iteration waits for it until it sends something
    again: a dead rank costs one deadline, not one per record.

    Arguments:
        world_size: number of ranks.
        deadline: seconds that an iteration waits for ranks that have not reported it.
        lost_data: counts lost data.
        ownership: which rank may report what.
        limit: number of iterations that may wait at the same time; beyond that the oldest is yielded incomplete.
        most_bytes: bytes of rows and vectors that may wait, likewise.

    Example:
        >>> import numpy as np
        >>> collector = Collector(2, 60, LostData(), Ownership(None, [[], []]))
        >>> batch = Batch(5, (), np.zeros((0, 6)))
        >>> collector.add(0, batch, now=0)
        >>> list(collector.ready(now=1))
        []
        >>> [(ready.iteration, ready.missing) for ready in collector.ready(now=61)]
        [(5, (1,))]
    """

    def __init__(
        self,
        world_size: int,
        deadline: float,
        lost_data: LostData,
        ownership: Ownership,
        limit: int = 256,
        most_bytes: int = 256 << 20,
    ) -> None:
        self._world_size = world_size
        self._deadline = deadline
        self._lost = lost_data
        self._ownership = ownership
        self._limit = limit
        self._most_bytes = most_bytes
        self._bytes = 0
        self._pending: dict[int, _Pending] = {}
        self._clock = -1
        self._finished = -1
        self._newest: dict[int, int] = {}
        self._silent: set[int] = set()

    def __len__(self) -> int:
        return len(self._pending)

    def mark_alive(self, rank: int) -> None:
        """Note that a rank is alive."""
        self._silent.discard(rank)

    def add(self, rank: int, batch: Batch, now: float) -> None:
        """Take one rank's rows of one iteration.

        Arguments:
            rank: the sender.
            batch: its rows; rows that the rank may not report are dropped.
            now: monotonic time in seconds.
        """
        self.mark_alive(rank)
        number = batch.iteration
        self._newest[rank] = max(number, self._newest.get(rank, -1))
        if number <= self._finished:
            self._lost.count(
                'late',
                f'rank {rank} reported iteration {number} after its record had been published; if this happens often, '
                f'raise monitor.deadline ({self._deadline:g} s)',
            )
            return
        pending = self._pending.setdefault(number, _Pending())
        if rank in pending.batches:
            self._lost.count('twice', f'rank {rank} reported iteration {number} twice; the first report counts')
            return
        owned = self._owned(rank, batch)
        pending.batches[rank] = owned
        self._bytes += owned.nbytes
        if rank == 0 and number > self._clock:
            self._clock = number
            for reached, earlier in self._pending.items():
                if reached <= number and earlier.waiting_since is None:
                    earlier.waiting_since = now
        elif number <= self._clock and pending.waiting_since is None:
            pending.waiting_since = now
        if self._is_crowded() and max(self._pending) > self._clock:
            self._remove(max(self._pending))
            self._lost.count(
                'ahead',
                f'rank {rank} is so far ahead of rank 0 that its rows were dropped; do all ranks take the same number '
                f'of learner steps?',
            )

    def ready(self, now: float, everything: bool = False) -> Iterator[Ready]:
        """Yield the iterations that are complete or have waited long enough, in ascending order.

        Arguments:
            now: monotonic time in seconds.
            everything: also yield iterations that could still become complete.
        """
        for number in sorted(self._pending):
            pending = self._pending[number]
            missing = tuple(rank for rank in range(self._world_size) if rank not in pending.batches)
            if missing and not everything and not self._given_up(number, pending, missing, now):
                return
            if missing and not pending.is_watched:
                self._silent.update(missing)
                self._lost.count(
                    'missing_rank',
                    f'ranks {list(missing)} did not report iteration {number} within {self._deadline:g} s; its record '
                    f'lacks their tasks and the figures over all tasks. If they are alive, raise monitor.deadline',
                    amount=len(missing),
                )
            self._remove(number)
            self._finished = number
            yield Ready(number, [pending.batches[rank] for rank in sorted(pending.batches)], missing)

    def _given_up(self, number: int, pending: _Pending, missing: tuple[int, ...], now: float) -> bool:
        if pending.waiting_since is None:
            return False
        if pending.is_watched and all(self._newest.get(rank, -1) > number for rank in missing):
            # Whoever has sent a later iteration was not watching in this one.
            return True
        waited = now - pending.waiting_since
        return waited >= self._deadline or self._silent.issuperset(missing) or self._is_crowded()

    def _is_crowded(self) -> bool:
        return len(self._pending) > self._limit or (self._bytes > self._most_bytes and len(self._pending) > 1)

    def _remove(self, number: int) -> None:
        self._bytes -= sum(batch.nbytes for batch in self._pending.pop(number).batches.values())

    def _owned(self, rank: int, batch: Batch) -> Batch:
        keep = self._ownership.own_rows(rank, batch.iteration, batch.keys)
        vectors = {key: batch.vectors[key] for key in self._ownership.own_keys(rank, batch.iteration, batch.vectors)}
        if keep is None and len(vectors) == len(batch.vectors):
            return batch
        keep = list(range(len(batch.keys))) if keep is None else keep
        self._lost.count(
            'foreign_task',
            f'rank {rank} sent rows of tasks it does not train or of parameter groups that another rank reports; they '
            f'were dropped. If tasks move between ranks, call Monitor.reassign(...)',
            amount=len(batch.keys) - len(keep) + len(batch.vectors) - len(vectors),
        )
        return replace(batch, keys=tuple(batch.keys[index] for index in keep), rows=batch.rows[keep], vectors=vectors)
