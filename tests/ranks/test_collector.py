"""Rank 0's table: batches are matched by iteration, in ascending order, and a dead rank costs one deadline."""

from __future__ import annotations

import numpy as np
import pytest

from ding_normmon.core.lost_data import LostData
from ding_normmon.ranks.collector import Collector
from ding_normmon.ranks.ownership import Ownership
from ding_normmon.rows.table import Batch, RowKey


@pytest.fixture
def lost_data() -> LostData:
    return LostData()


def alike(world_size: int) -> Ownership:
    return Ownership(None, [()] * world_size)


def add(collector: Collector, rank: int, iteration: int, now: float = 0.0) -> None:
    collector.add(rank, Batch(iteration, (), np.zeros((0, 6))), now)


def ready(collector: Collector, now: float, everything: bool = False) -> list[tuple[int, tuple[int, ...]]]:
    return [(entry.iteration, entry.missing) for entry in collector.ready(now, everything)]


def test_iterations_leave_in_order_however_they_arrive(lost_data: LostData) -> None:
    collector = Collector(2, 10, lost_data, alike(2))
    for rank, iteration in ((1, 20), (1, 10), (0, 10), (1, 30), (0, 20)):
        add(collector, rank, iteration)
    assert ready(collector, 0) == [(10, ()), (20, ())]
    add(collector, 0, 30)
    assert ready(collector, 0) == [(30, ())]
    assert not lost_data.total


def test_the_deadline_begins_when_rank_0_gets_there(lost_data: LostData) -> None:
    collector = Collector(3, 10, lost_data, alike(3))
    add(collector, 1, 5, now=0)
    assert ready(collector, 100) == []
    add(collector, 0, 5, now=100)
    assert ready(collector, 109) == []
    assert ready(collector, 110) == [(5, (2,))]


def test_a_dead_rank_costs_one_deadline_and_is_waited_for_again_once_it_is_back(lost_data: LostData) -> None:
    collector = Collector(2, 10, lost_data, alike(2))
    for iteration in range(3):
        add(collector, 0, iteration)
    assert ready(collector, 10) == [(0, (1,)), (1, (1,)), (2, (1,))]
    add(collector, 0, 3, now=11)
    assert ready(collector, 11) == [(3, (1,))]
    add(collector, 1, 3, now=12)
    assert lost_data.total == {'missing_rank': 4, 'late': 1}
    add(collector, 0, 4, now=12)
    assert ready(collector, 13) == []


def test_a_rank_far_ahead_delays_no_other_rank_and_uses_bounded_memory(lost_data: LostData) -> None:
    collector = Collector(2, 10, lost_data, alike(2), limit=8)
    for iteration in range(1000, 1020):
        add(collector, 1, iteration)
    assert len(collector) == 8
    assert lost_data.total['ahead'] == 12
    add(collector, 0, 0)
    assert ready(collector, 10) == [(0, (1,))]


def test_too_many_open_iterations_do_not_wait_for_the_deadline(lost_data: LostData) -> None:
    collector = Collector(2, 10, lost_data, alike(2), limit=8)
    for iteration in range(10):
        add(collector, 0, iteration)
        list(collector.ready(0))
    assert len(collector) < 10


def test_everything_leaves_at_the_end(lost_data: LostData) -> None:
    collector = Collector(2, 10, lost_data, alike(2))
    add(collector, 1, 7)
    add(collector, 0, 3)
    assert ready(collector, 0, everything=True) == [(3, (1,)), (7, (0,))]


def test_vectors_of_foreign_tasks_are_dropped_and_counted() -> None:
    lost_data = LostData()
    collector = Collector(1, 60, lost_data, Ownership(3, [[1]]))
    mine, foreign = RowKey('a', 'x', 1), RowKey('a', 'x', 2)
    vectors = {mine: np.ones(2), foreign: np.ones(2), RowKey('a', 'y'): np.ones(1)}
    batch = Batch(0, (mine,), np.zeros((1, 6)), vectors)
    collector.add(0, batch, now=0)
    (ready,) = collector.ready(now=0)
    assert set(ready.batches[0].vectors) == {mine, RowKey('a', 'y')}
    assert ready.batches[0].keys == (mine,)
    assert lost_data.total == {'foreign_task': 1}
