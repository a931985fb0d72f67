"""Rank 0's table of what has been reported for which iteration: when is an iteration ready, and what does it lack."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ding_normmon.core.lost_data import LostData
from ding_normmon.ranks.ownership import Ownership
from ding_normmon.rows.table import Batch

__all__ = ['Collector', 'Ready']


@dataclass(frozen=True)
class Ready:
    """One iteration that is handed on.

    Arguments:
        iteration: 0-based learner iteration.
        batches: what the ranks reported, sorted by rank.
        missing: the ranks that did not report, ascending.
    """

    iteration: int
    batches: list[Batch]
    missing: tuple[int, ...]


@dataclass
class _Open:
    batches: dict[int, Batch] = field(default_factory=dict)
    waiting_since: float | None = None


class Collector:
    """Matches batches by iteration; iterations leave in ascending order, each exactly once.

    Rank 0 is the clock. An iteration waits for the other ranks from the moment rank 0 has reported it (or a later one),
    for at most ``deadline`` seconds; one that rank 0 has not reached does not leave, so a rank that runs far ahead
    delays nobody. A rank that missed a deadline is not waited for again until it has been heard of: a dead rank costs
    one deadline, not one per record.

    Arguments:
        world_size: number of ranks.
        deadline: seconds for which an iteration waits for the ranks that have not reported it.
        lost_data: where lost_data are counted.
        ownership: which rank may report what.
        limit: iterations that may be open at the same time; beyond it the oldest leaves incomplete.

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
        self, world_size: int, deadline: float, lost_data: LostData, ownership: Ownership, limit: int = 256
    ) -> None:
        self._world_size = world_size
        self._deadline = deadline
        self._lost = lost_data
        self._ownership = ownership
        self._limit = limit
        self._open: dict[int, _Open] = {}
        self._clock = -1
        self._finished = -1
        self._silent: set[int] = set()

    def __len__(self) -> int:
        return len(self._open)

    def hear(self, rank: int) -> None:
        """Note that a rank is alive."""
        self._silent.discard(rank)

    def add(self, rank: int, batch: Batch, now: float) -> None:
        """Take one rank's rows of one iteration.

        Arguments:
            rank: whose rows they are.
            batch: the rows; those that the rank may not report are dropped.
            now: monotonic seconds.
        """
        self.hear(rank)
        number = batch.iteration
        if number <= self._finished:
            self._lost.count(
                'late',
                f'rank {rank} reported iteration {number} after its record had been published; if this goes on, raise '
                f'monitor.deadline ({self._deadline:g} s)',
            )
            return
        entry = self._open.setdefault(number, _Open())
        if rank in entry.batches:
            self._lost.count('twice', f'rank {rank} reported iteration {number} twice; the first report counts')
            return
        entry.batches[rank] = self._owned(rank, batch)
        if rank == 0 and number > self._clock:
            self._clock = number
            for reached, earlier in self._open.items():
                if reached <= number and earlier.waiting_since is None:
                    earlier.waiting_since = now
        elif number <= self._clock and entry.waiting_since is None:
            entry.waiting_since = now
        if len(self._open) > self._limit and max(self._open) > self._clock:
            del self._open[max(self._open)]
            self._lost.count(
                'ahead',
                f'rank {rank} is so far ahead of rank 0 that its rows were dropped; do all ranks take the same number '
                f'of learner steps?',
            )

    def ready(self, now: float, everything: bool = False) -> Iterator[Ready]:
        """Yield what is complete or has waited long enough, in the order of iterations.

        Arguments:
            now: monotonic seconds.
            everything: hand on also what could still be completed.
        """
        for number in sorted(self._open):
            entry = self._open[number]
            missing = tuple(rank for rank in range(self._world_size) if rank not in entry.batches)
            if missing and not everything and not self._given_up(number, entry, missing, now):
                return
            if missing:
                self._silent.update(missing)
                self._lost.count(
                    'missing_rank',
                    f'ranks {list(missing)} did not report iteration {number} within {self._deadline:g} s; its record '
                    f'lacks their tasks and all figures over all tasks. If they are alive, raise monitor.deadline',
                    amount=len(missing),
                )
            del self._open[number]
            self._finished = number
            yield Ready(number, [entry.batches[rank] for rank in sorted(entry.batches)], missing)

    def _given_up(self, number: int, entry: _Open, missing: tuple[int, ...], now: float) -> bool:
        if entry.waiting_since is None:
            return False
        waited = now - entry.waiting_since
        return waited >= self._deadline or self._silent.issuperset(missing) or len(self._open) > self._limit

    def _owned(self, rank: int, batch: Batch) -> Batch:
        keep = self._ownership.own_rows(rank, batch.iteration, batch.keys)
        vectors = {key: batch.vectors[key] for key in self._ownership.own_keys(rank, batch.iteration, batch.vectors)}
        if keep is None and len(vectors) == len(batch.vectors):
            return batch
        keep = list(range(len(batch.keys))) if keep is None else keep
        self._lost.count(
            'foreign_task',
            f'rank {rank} sent rows of tasks it does not train or of parameter groups that another rank reports; they '
            f'were dropped. Tell the monitor of tasks that move with Monitor.reassign(...)',
            amount=len(batch.keys) - len(keep) + len(batch.vectors) - len(vectors),
        )
        return Batch(batch.iteration, tuple(batch.keys[index] for index in keep), batch.rows[keep], vectors)
