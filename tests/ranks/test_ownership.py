"""Which rank may report which rows, for any division of tasks and after tasks have moved."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ding_normmon import ConfigurationError
from ding_normmon.ranks.ownership import Ownership, checked_task_ids
from ding_normmon.rows.table import RowKey

NORMS = 'gradient_norms'
SIGNALS = 'tensor_statistics'


def may_report(ownership: Ownership, rank: int, iteration: int, key: RowKey) -> bool:
    whole = ownership.own_rows(rank, iteration, (key,)) is None
    assert ownership.own_keys(rank, iteration, [key]) == ([key] if whole else [])
    return whole


@given(st.lists(st.sets(st.integers(0, 5)), min_size=1, max_size=4), st.data())
def test_every_parameter_group_has_exactly_one_owner(division: list[set[int]], data: st.DataObject) -> None:
    ownership = Ownership(6, [sorted(ids) for ids in division], owner_only={NORMS})
    moved = data.draw(st.lists(st.sets(st.integers(0, 5)), min_size=len(division), max_size=len(division)))
    ownership.change(100, [sorted(ids) for ids in moved])
    for iteration in (0, 99, 100, 5_000):
        for task_id in (None, *range(6)):
            key = RowKey(NORMS, 'head_value' if task_id is not None else 'encoder', task_id)
            owners = [rank for rank in range(len(division)) if may_report(ownership, rank, iteration, key)]
            assert len(owners) == 1
            trainers = [rank for rank, ids in enumerate(division if iteration < 100 else moved) if task_id in ids]
            if trainers:
                assert owners == trainers[:1], 'the lowest rank that trains the task'


def test_the_head_of_an_untrained_task_stays_with_the_last_rank_that_trained_it() -> None:
    ownership = Ownership(3, [[0], [1, 2]], owner_only={NORMS})
    ownership.change(50, [[0, 1], []])
    ownership.change(80, [[0], []])
    head = [RowKey(NORMS, 'head_value', task_id) for task_id in range(3)]
    assert [ownership.owner(task_id) for task_id in (0, 1, 2, None)] == [0, 0, 1, 0]
    assert [may_report(ownership, 1, 79, key) for key in head] == [False, False, True]
    assert [may_report(ownership, 1, 49, key) for key in head] == [False, True, True], 'a late message of before'


def test_signals_come_from_every_rank_that_trains_the_task() -> None:
    ownership = Ownership(2, [[0, 1], [1]], owner_only={NORMS})
    shared, first, second = (RowKey(SIGNALS, 'x_token', task_id) for task_id in (None, 0, 1))
    assert [may_report(ownership, 0, 5, key) for key in (shared, first, second)] == [True, True, True]
    assert [may_report(ownership, 1, 5, key) for key in (shared, first, second)] == [True, False, True]
    assert ownership.own_rows(1, 5, (shared, first, second)) == [0, 2]
    assert not may_report(ownership, 1, 5, RowKey(SIGNALS, 'x_token', 7)), 'a task that does not exist'


def test_every_rank_reports_its_part_of_a_sharded_group() -> None:
    ownership = Ownership(None, [[], []], owner_only={NORMS}, sharded={('encoder', None)})
    assert may_report(ownership, 1, 0, RowKey(NORMS, 'encoder'))
    assert not may_report(ownership, 1, 0, RowKey(NORMS, 'transformer'))
    assert not may_report(ownership, 1, 0, RowKey(SIGNALS, 'x_token', 0)), 'a single-task policy has no task ids'


@pytest.mark.parametrize(
    ('num_tasks', 'task_ids', 'message'),
    [
        (0, None, 'num_tasks must be the number of all tasks or None, got 0'),
        (True, None, 'got True'),
        (2.0, None, 'got 2.0'),
        (None, [1], 'need num_tasks'),
        (3, [3], 'task id 3 is out of range; with 3 tasks the nearest is 2'),
        (3, [-1], 'the nearest is 0'),
        (3, [1, 1], 'not unique'),
        (3, ['Pong'], 'task_ids must be global ids'),
        (3, 5, 'task_ids must be global ids'),
    ],
)
def test_an_invalid_division_is_refused(num_tasks: Any, task_ids: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        checked_task_ids(num_tasks, task_ids)
