"""Queues between ranks are bounded in bytes, however few messages these are."""

from __future__ import annotations

import numpy as np
import pytest
import torch.distributed as dist

from ding_normmon.core.lost_data import LostData
from ding_normmon.ranks.collector import Collector
from ding_normmon.ranks.message import MessageError, decode, encode, encode_schema, schema_digest
from ding_normmon.ranks.ownership import Ownership
from ding_normmon.ranks.transport import WAITING_BYTES, WAITING_MESSAGES, StoreTransport
from ding_normmon.ranks.work_queue import WorkQueue
from ding_normmon.rows.table import Batch, RowKey

KEYS = (RowKey('gradient_norms', 'encoder'),)


@pytest.mark.parametrize('size', [5_000, 1_300_000, 7_000_000])
@pytest.mark.parametrize('kind', ['hash', 'file'])
def test_messages_that_nobody_reads_stay_below_so_many_bytes(size: int, kind: str, tmp_path: object) -> None:
    store = dist.HashStore() if kind == 'hash' else dist.FileStore(f'{tmp_path}/store', 2)
    _, one = (StoreTransport(lambda: store, rank, 2, 'test') for rank in (0, 1))
    sent = 0
    while not one.full():
        one.send(bytes(size))
        sent += 1
        assert sent <= 100
    assert sent * size <= max(WAITING_BYTES + size, size)
    assert sent == min(WAITING_MESSAGES, max(1, WAITING_BYTES // size))


def test_a_work_queue_drops_the_oldest_bytes() -> None:
    queue: WorkQueue[bytes] = WorkQueue(100, size_of=len, most_bytes=1000)
    assert [queue.put(bytes(300)) for _ in range(5)] == [0, 0, 0, 1, 1]
    assert queue.put(bytes(5000)) == 3, 'the newest is kept, however large it is'
    assert [len(entry) for entry in queue.take(None)] == [5000]
    assert queue.put(bytes(300)) == 0


def test_what_is_open_on_rank_0_is_bounded_too() -> None:
    collector = Collector(2, 1e9, LostData(), Ownership(None, [[], []]), most_bytes=1_000_000)
    vector = {RowKey('a', 'x', None, 'sketch'): np.ones(50_000)}
    for number in range(6):
        collector.add(0, Batch(number, KEYS, np.ones((1, 6)), vector), now=0)
    left = [ready.iteration for ready in collector.ready(now=1)]
    assert left == list(range(len(left)))
    assert len(collector) <= 2
    far = Collector(2, 1e9, LostData(), Ownership(None, [[], []]), most_bytes=1_000_000)
    for number in range(20):
        far.add(1, Batch(number, KEYS, np.ones((1, 6)), vector), now=0)
    assert len(far) <= 3


@pytest.mark.parametrize('amount', [10**400, 2**53, -1, 0, True, 1.5, '9' * 400])
def test_a_count_that_no_float_can_hold_is_refused(amount: object) -> None:
    batch = Batch(0, KEYS, np.zeros((1, 6)))
    schema = encode_schema(batch.keys)
    data = encode(1, b'session1', batch, schema_digest(schema), schema, {'x': amount})  # type: ignore[dict-item]
    with pytest.raises(MessageError):
        decode(data, b'session1')


def test_what_another_rank_counted_is_a_figure_whatever_it_is() -> None:
    lost_data = LostData()
    lost_data.absorb({'x': 10**400})
    assert float(lost_data.take()['x']) > 0
