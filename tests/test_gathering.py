"""Rank 0's table: matched by iteration, ascending, one deadline per dead rank."""

from __future__ import annotations

import numpy as np
import pytest

from ding_normmon.core.lost_data import LossCounter
from ding_normmon.ranks.collector import Gathering
from ding_normmon.ranks.ownership import Ownership
from ding_normmon.rows.table import Batch, RowKey


@pytest.fixture
def losses() -> LossCounter:
    return LossCounter()


def alike(world_size: int) -> Ownership:
    return Ownership(None, [()] * world_size)


def add(gathering: Gathering, rank: int, iteration: int, now: float = 0.0) -> None:
    gathering.add(rank, Batch(iteration, (), np.zeros((0, 6))), now)


def ready(gathering: Gathering, now: float, everything: bool = False) -> list[tuple[int, tuple[int, ...]]]:
    return [(entry.iteration, entry.missing) for entry in gathering.ready(now, everything)]


def test_iterations_leave_in_order_however_they_arrive(losses: LossCounter) -> None:
    gathering = Gathering(2, 10, losses, alike(2))
    for rank, iteration in ((1, 20), (1, 10), (0, 10), (1, 30), (0, 20)):
        add(gathering, rank, iteration)
    assert ready(gathering, 0) == [(10, ()), (20, ())]
    add(gathering, 0, 30)
    assert ready(gathering, 0) == [(30, ())]
    assert not losses.total


def test_the_deadline_begins_when_rank_0_gets_there(losses: LossCounter) -> None:
    gathering = Gathering(3, 10, losses, alike(3))
    add(gathering, 1, 5, now=0)
    assert ready(gathering, 100) == []
    add(gathering, 0, 5, now=100)
    assert ready(gathering, 109) == []
    assert ready(gathering, 110) == [(5, (2,))]


def test_a_dead_rank_costs_one_deadline_and_is_waited_for_again_once_it_is_heard(losses: LossCounter) -> None:
    gathering = Gathering(2, 10, losses, alike(2))
    for iteration in range(3):
        add(gathering, 0, iteration)
    assert ready(gathering, 10) == [(0, (1,)), (1, (1,)), (2, (1,))]
    add(gathering, 0, 3, now=11)
    assert ready(gathering, 11) == [(3, (1,))]
    add(gathering, 1, 3, now=12)
    assert losses.total == {'missing_rank': 4, 'late': 1}
    add(gathering, 0, 4, now=12)
    assert ready(gathering, 13) == []


def test_a_rank_far_ahead_delays_nobody_and_fills_no_memory(losses: LossCounter) -> None:
    gathering = Gathering(2, 10, losses, alike(2), limit=8)
    for iteration in range(1000, 1020):
        add(gathering, 1, iteration)
    assert len(gathering) == 8
    assert losses.total['ahead'] == 12
    add(gathering, 0, 0)
    assert ready(gathering, 10) == [(0, (1,))]


def test_too_many_open_iterations_do_not_wait_for_the_deadline(losses: LossCounter) -> None:
    gathering = Gathering(2, 10, losses, alike(2), limit=8)
    for iteration in range(10):
        add(gathering, 0, iteration)
        list(gathering.ready(0))
    assert len(gathering) < 10


def test_everything_leaves_at_the_end(losses: LossCounter) -> None:
    gathering = Gathering(2, 10, losses, alike(2))
    add(gathering, 1, 7)
    add(gathering, 0, 3)
    assert ready(gathering, 0, everything=True) == [(3, (1,)), (7, (0,))]


def test_vectors_of_foreign_tasks_are_dropped_and_counted() -> None:
    losses = LossCounter()
    gathering = Gathering(1, 60, losses, Ownership(3, [[1]]))
    mine, foreign = RowKey('a', 'x', 1), RowKey('a', 'x', 2)
    vectors = {mine: np.ones(2), foreign: np.ones(2), RowKey('a', 'y'): np.ones(1)}
    batch = Batch(0, (mine,), np.zeros((1, 6)), vectors)
    gathering.add(0, batch, now=0)
    (ready,) = gathering.ready(now=0)
    assert set(ready.batches[0].vectors) == {mine, RowKey('a', 'y')}
    assert ready.batches[0].keys == (mine,)
    assert losses.total == {'foreign_task': 1}
