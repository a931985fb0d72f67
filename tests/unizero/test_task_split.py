"""Tasks are split as evenly as possible for all numbers; a user's own split is checked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ding_normmon.unizero.run_config import tasks_of_ranks


@given(st.integers(1, 60), st.integers(1, 60))
def test_every_task_has_one_rank_and_shares_differ_by_one_at_most(tasks, ranks):
    split = tasks_of_ranks(tasks, ranks)
    assert len(split) == ranks
    assert [task_id for ids in split for task_id in ids] == list(range(tasks))
    sizes = [len(ids) for ids in split]
    assert max(sizes) - min(sizes) <= 1


def test_a_split_of_ones_own_is_taken():
    assert tasks_of_ranks(3, 2, None) == [[0, 1], [2]]
    assert tasks_of_ranks(3, 2, [[2], [0, 1]]) == [[2], [0, 1]]
    assert tasks_of_ranks(2, 3, [[], [0, 1], []]) == [[], [0, 1], []]


@pytest.mark.parametrize(
    ('split', 'message'),
    [
        ([[0, 1], [4]], r'task_split: task_ids: 4 is out of range; valid ids are 0 to 2'),
        ([[0, -1], [2]], r'task_split: task_ids: -1 is out of range'),
        ([[0, 1], [1, 2]], 'task_split: task_ids: 1 is listed twice'),
        ([[0], [2]], 'task_split: no rank trains task 1'),
        ([[0, 1, 2]], 'task_split: has 1 lists, but there are 2 ranks'),
        ([0, 1], 'task_split: expected one list of task ids per rank'),
        ([[0, 'x'], [1, 2]], 'task_split: '),
    ],
)
def test_an_impossible_split_is_refused(split, message):
    with pytest.raises(ValueError, match=message):
        tasks_of_ranks(3, 2, split)
