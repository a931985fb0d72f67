"""Bytes from every rank to rank 0, through every kind of store of torch.distributed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from ding_normmon.ranks import transport
from ding_normmon.ranks.transport import LocalTransport, StoreTransport, TransportError, default_transport

Connect = Callable[[], Any]


@pytest.fixture(params=['tcp', 'hash', 'file'])
def connect(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connect]:
    """Opens one more connection to the same store: with queues (tcp, hash) and without (file)."""
    if request.param == 'tcp':
        master = dist.TCPStore('127.0.0.1', 0, is_master=True, timeout=timedelta(seconds=10), wait_for_workers=False)
        yield lambda: dist.TCPStore('127.0.0.1', master.port, timeout=timedelta(seconds=10))
    elif request.param == 'hash':
        store = dist.HashStore()
        yield lambda: store
    else:
        yield lambda: dist.FileStore(str(tmp_path / 'store'), 3)


def ranks(connect: Connect, world_size: int = 3, name: str = 'test') -> list[StoreTransport]:
    return [StoreTransport(connect, rank, world_size, name) for rank in range(world_size)]


def test_messages_arrive_whole_and_each_rank_in_its_own_order(connect: Connect) -> None:
    zero, one, two = ranks(connect)
    assert zero.receive() == [], 'it never waits'
    sent = [bytes([rank, number]) + bytes(number * 1_000) for number in range(4) for rank in (1, 2)]
    for message in sent:
        (one if message[0] == 1 else two).send(message)
    arrived = zero.receive()
    assert sorted(arrived) == sorted(sent)
    for rank in (1, 2):
        assert [message[1] for message in arrived if message[0] == rank] == [0, 1, 2, 3]
    assert zero.receive() == []


def test_every_rank_reads_what_rank_0_posted_last(connect: Connect) -> None:
    zero, one, two = ranks(connect)
    assert one.read() == b''
    zero.post(b'first')
    zero.post(b'second')
    assert [one.read(), two.read(), one.read()] == [b'second', b'second', b'second']


def test_every_rank_gets_the_statement_of_every_rank(connect: Connect) -> None:
    every = ranks(connect)
    for rank, entry in enumerate(every[:2]):
        entry.state('tasks', {'ids': [rank]})
    assert every[2].agree('tasks', {'ids': [5, 6]}, timeout=5) == [{'ids': [0]}, {'ids': [1]}, {'ids': [5, 6]}]


def test_a_rank_that_says_nothing_is_named(connect: Connect) -> None:
    zero, one, _ = ranks(connect)
    one.state('tasks', {})
    with pytest.raises(TransportError, match=r"ranks \[2\] sent nothing about 'tasks' within 0.2 s"):
        zero.agree('tasks', {}, timeout=0.2)


def test_a_statement_that_is_not_json_is_a_transport_error(connect: Connect) -> None:
    zero, _, two = ranks(connect)
    two.state('tasks', {})
    dist.PrefixStore('test', connect()).set('tasks/1', 'no json')
    with pytest.raises(TransportError, match='not JSON'):
        zero.agree('tasks', {}, timeout=5)


def test_a_queue_that_is_not_emptied_is_full(connect: Connect) -> None:
    zero, one, _ = ranks(connect)
    sent = 0
    while not one.full():
        one.send(b'rows')
        sent += 1
        assert sent <= transport.WAITING_MESSAGES * 3
    assert sent >= transport.WAITING_MESSAGES
    assert len(zero.receive()) == sent
    assert not one.full()


def test_two_monitors_of_one_job_are_separate(connect: Connect) -> None:
    first, second = ranks(connect, name='first'), ranks(connect, name='second')
    first[1].send(b'first')
    second[0].post(b'second')
    assert second[0].receive() == []
    assert first[0].receive() == [b'first']
    assert first[1].read() == b''


def test_a_broken_store_is_an_error_and_is_opened_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        """A store whose connection is gone."""

        def set(self, *_: Any) -> None:
            raise RuntimeError('Broken pipe\nstack trace')

    opened: list[Any] = []
    store = dist.HashStore()

    def connect() -> Any:
        opened.append(store)
        return store

    entry = StoreTransport(connect, 0, 2, 'test')
    entry._store = Broken()
    with pytest.raises(TransportError, match=r'^Broken pipe$'):
        entry.post(b'lost')
    with pytest.raises(TransportError, match='retrying every 10 s'):
        entry.post(b'lost')
    assert len(opened) == 1
    later = time.monotonic() + transport.RETRY_SECONDS
    monkeypatch.setattr(transport.time, 'monotonic', lambda: later)
    entry.post(b'back')
    assert len(opened) == 2
    assert entry.read() == b'back'


def test_a_single_process_sends_nothing() -> None:
    alone = default_transport()
    assert isinstance(alone, LocalTransport)
    assert (alone.rank, alone.world_size) == (0, 1)
    assert alone.agree('tasks', {'ids': [0]}, timeout=0.0) == [{'ids': [0]}]
    assert (alone.receive(), alone.read(), alone.full()) == ([], b'', False)
