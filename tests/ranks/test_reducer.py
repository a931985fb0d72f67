"""What a rank sends when there is too much of it."""

from __future__ import annotations

import time

import numpy as np
import pytest

from ding_normmon.core.lost_data import LostData
from ding_normmon.ranks.decisions.control import Control
from ding_normmon.ranks.message import decode
from ding_normmon.ranks.ownership import Ownership
from ding_normmon.ranks.reducer import Reducer
from ding_normmon.ranks.transport import LARGEST_MESSAGE
from ding_normmon.rows.table import Batch, RowKey
from ding_normmon.rows.waiting_batch import WaitingBatch

SESSION = b'session1'
KEYS = (RowKey('a', 'x'),)


class Post:
    """A transport of rank 1 that keeps what is sent."""

    rank, world_size = 1, 2
    sent_unasked = 0

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, message: bytes) -> None:
        assert len(message) <= LARGEST_MESSAGE
        self.sent.append(message)

    def read(self) -> bytes:
        return b'{"beat":1}'

    def full(self) -> bool:
        return False


@pytest.mark.parametrize(('megabytes', 'arrives'), [(1, True), (6.9, True), (7.2, False), (30, False)])
def test_vectors_that_do_not_fit_a_message_are_left_out_and_counted(megabytes: float, arrives: bool) -> None:
    post, lost_data = Post(), LostData()
    control = Control(1, 2, 10, lost_data, deadline=60)
    reducer = Reducer(post, lambda *_: None, lost_data, control, 60, SESSION, Ownership(None, [(), ()]))  # type: ignore[arg-type]
    vector = np.ones(int(megabytes * 2**20 / 8))
    reducer.submit(Batch(0, KEYS, np.ones((1, 6)), {RowKey('a', 'x', None, 'sketch'): vector}))
    deadline = time.monotonic() + 10
    while not post.sent and time.monotonic() < deadline:
        time.sleep(0.01)
    reducer.close(5)
    said = decode(post.sent[0], SESSION)
    assert said.schema is not None
    assert said.rows.tolist() == [[1.0] * 6]
    assert list(said.schema.split(said.vectors)) == ([RowKey('a', 'x', None, 'sketch')] if arrives else [])
    assert lost_data.total == ({} if arrives else {'too_large': 1})


def test_rows_that_cannot_be_made_cost_nothing_but_themselves() -> None:
    lost_data = LostData()
    control = Control(1, 2, 10, lost_data, deadline=60)
    reducer = Reducer(Post(), lambda *_: None, lost_data, control, 60, SESSION, Ownership(None, [(), ()]))  # type: ignore[arg-type]

    def fail() -> Batch:
        raise KeyError('nonsense')

    good = Batch(3, KEYS, np.ones((1, 6)))
    made = list(reducer._made([WaitingBatch(fail), good, WaitingBatch(lambda: Batch(4, KEYS, np.ones((1, 6))))]))
    assert [batch.iteration for batch in made] == [3, 4]
    assert lost_data.total == {'background': 1}
    reducer.close(5)
