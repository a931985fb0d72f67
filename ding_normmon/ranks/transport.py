"""Sends bytes between ranks without using the training's own communication.

Messages go through the rendezvous store of ``torch.distributed``, over a separate connection: every backend has the
store, no collective is involved, and nobody waits for a dead rank. The monitor keeps three things in the store, under a
prefix of its own:

- the ranks' statements at the start (:meth:`Transport.agree`),
- a queue into which the ranks push messages and which rank 0 empties (:meth:`Transport.send`),
- the bulletin, a value that rank 0 replaces and the others read (:meth:`Transport.post`): its heartbeat and decisions.

Why a store and not a gloo group with asynchronous operations: measured on one machine with messages of 5 kB, a push
into a ``TCPStore`` queue takes its sender 6 us without waiting for an answer and a pop takes 19 us, so rank 0 receives
the messages of 1,024 ranks in 20 to 33 ms. An asynchronous gloo ``gather`` took 10 to 30 us to issue and 300 us to
complete on three ranks. With one rank late by 2 s, rank 0 had to wait these 2 s, and after one rank was killed, every
further ``gather`` failed on rank 0.
"""

from __future__ import annotations

import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol

import torch.distributed as dist

if dist.is_available():
    from torch._C._distributed_c10d import HashStore, PrefixStore, TCPStore

__all__ = ['LARGEST_MESSAGE', 'LocalTransport', 'StoreTransport', 'Transport', 'TransportError', 'default_transport']

RETRY_SECONDS = 10.0
"""Seconds before a broken connection is opened again."""

LARGEST_MESSAGE = (8 << 20) - 4096
"""Most bytes of a message: at 8 MiB the rendezvous store closes the connection."""

WAITING_MESSAGES = 16
"""Messages per rank that may wait for a silent rank 0; this bounds the memory of the store."""

WAITING_BYTES = 4 << 20
"""Bytes per rank that may wait for rank 0, however few messages they are."""

_MESSAGES_PER_TURN = 8192

_instances = itertools.count()


class TransportError(RuntimeError):
    """The ranks could not reach each other."""


class Transport(Protocol):
    """The connection between ranks that :class:`~ding_normmon.ranks.reducer.Reducer` uses.

    The learner calls ``agree`` at the start; one background thread calls everything else.
    """

    rank: int
    world_size: int

    def state(self, topic: str, statement: Mapping[str, Any]) -> None:
        """State something without waiting for the others."""
        ...

    def agree(self, topic: str, statement: Mapping[str, Any], timeout: float) -> list[dict[str, Any]]:
        """Exchange statements; return the statement of every rank, by rank."""
        ...

    def send(self, message: bytes) -> None:
        """Send a message to rank 0."""
        ...

    def full(self) -> bool:
        """Return whether too many messages, or too many bytes, are waiting for rank 0."""
        ...

    @property
    def sent_unasked(self) -> int:
        """Bytes sent since the last call of :meth:`full`, all of which may be waiting."""
        ...

    def receive(self) -> list[bytes]:
        """Return the messages that have arrived on rank 0; never waits for more."""
        ...

    def post(self, bulletin: bytes) -> None:
        """Replace, on rank 0, what every rank can read."""
        ...

    def read(self) -> bytes:
        """Return what rank 0 has posted last."""
        ...


class LocalTransport:
    """The transport of a single process, which never sends anything.

    Example:
        >>> LocalTransport().agree('hello', {'tasks': [0]}, timeout=1)
        [{'tasks': [0]}]
    """

    rank = 0
    world_size = 1
    sent_unasked = 0

    def state(self, topic: str, statement: Mapping[str, Any]) -> None:
        """Do nothing."""

    def agree(self, topic: str, statement: Mapping[str, Any], timeout: float) -> list[dict[str, Any]]:
        """Return this process' statement."""
        return [dict(statement)]

    def send(self, message: bytes) -> None:
        """Never called: rank 0 keeps its own rows."""

    def full(self) -> bool:
        """Return False."""
        return False

    def receive(self) -> list[bytes]:
        """Return nothing."""
        return []

    def post(self, bulletin: bytes) -> None:
        """Do nothing."""

    def read(self) -> bytes:
        """Return nothing."""
        return b''


class StoreTransport:
    """Messages through a ``torch.distributed`` store.

    Arguments:
        connect: opens a connection that is not shared with the training; called again when the connection breaks.
        rank: this process.
        world_size: number of processes.
        name: prefix of all keys; equal on all ranks, different for every monitor.
    """

    def __init__(self, connect: Callable[[], Any], rank: int, world_size: int, name: str) -> None:
        self.rank = rank
        self.world_size = world_size
        self._connect = connect
        self._name = name
        self._sent = 0
        self.sent_unasked = 0
        self._sizes: deque[int] = deque(maxlen=WAITING_MESSAGES)
        self._read = [0] * world_size
        self._retry_at = 0.0
        store = connect()
        # File stores have no queues; there every message gets a numbered key.
        self._queues = _has_queues(store)
        self._store: Any = PrefixStore(name, store)
        if rank == 0:
            # A read would wait for a missing key.
            self.post(b'')

    @contextmanager
    def _use(self) -> Iterator[Any]:
        """Yield the store; after a failure it is closed for some seconds.

        Raises:
            TransportError: the store failed now or within the last ten seconds.
        """
        try:
            if self._store is None:
                if time.monotonic() < self._retry_at:
                    raise TransportError(f'the rendezvous store is not reachable; retrying every {RETRY_SECONDS:g} s')
                self._retry_at = time.monotonic() + RETRY_SECONDS
                self._store = PrefixStore(self._name, self._connect())
            yield self._store
        except TransportError:
            raise
        except RuntimeError as error:  # the base class of torch.distributed's errors
            # A store prints a stack trace per failed call, so a broken one is not called all the time.
            self._store = None
            self._retry_at = time.monotonic() + RETRY_SECONDS
            raise TransportError(str(error).splitlines()[0]) from error

    def state(self, topic: str, statement: Mapping[str, Any]) -> None:
        """State something without waiting for the others."""
        with self._use() as store:
            store.set(f'{topic}/{self.rank}', json.dumps(statement))

    def agree(self, topic: str, statement: Mapping[str, Any], timeout: float) -> list[dict[str, Any]]:
        """Return the statement of every rank, by rank.

        Raises:
            TransportError: a rank sent nothing, or nothing that can be read, within ``timeout`` seconds.
        """
        keys = [f'{topic}/{rank}' for rank in range(self.world_size)]
        self.state(topic, statement)
        with self._use() as store:
            try:
                store.wait(keys, timedelta(seconds=timeout))
            except RuntimeError as error:  # a file store raises nothing more specific
                silent = [rank for rank, key in enumerate(keys) if not store.check([key])]
                if not silent:
                    raise
                raise TransportError(
                    f'monitor: ranks {silent} sent nothing about {topic!r} within {timeout:g} s; every rank must '
                    f'construct the monitor, and equally often'
                ) from error
            said = [store.get(key) for key in keys]
        try:
            return [dict(json.loads(text)) for text in said]
        except (TypeError, ValueError) as error:
            raise TransportError(f'monitor: the statement of a rank about {topic!r} is not JSON: {error}') from error

    def send(self, message: bytes) -> None:
        """Push a message to rank 0."""
        with self._use() as store:
            if self._queues:
                store.queue_push('rows', message)
            else:
                store.set(f'rows/{self.rank}/{self._sent}', message)
        self._sent += 1
        self.sent_unasked += len(message)
        self._sizes.append(len(message))

    def full(self) -> bool:
        """Return whether too many messages, or too many bytes, are waiting for rank 0."""
        self.sent_unasked = 0
        most = max(1, min(WAITING_MESSAGES, WAITING_BYTES // max(self._sizes, default=1)))
        with self._use() as store:
            if self._queues:
                # All ranks share the queue: each has its part of what waits.
                return int(store.queue_len('rows')) >= most * max(1, self.world_size - 1)
            oldest = self._sent - most
            return oldest >= 0 and bool(store.check([f'rows/{self.rank}/{oldest}']))

    def receive(self) -> list[bytes]:
        """Return the messages that have arrived on rank 0."""
        with self._use() as store:
            if self._queues:
                waiting = min(store.queue_len('rows'), _MESSAGES_PER_TURN)
                return [store.queue_pop('rows', False) for _ in range(waiting)]
            messages = []
            for rank in range(1, self.world_size):
                while store.check([key := f'rows/{rank}/{self._read[rank]}']):
                    messages.append(store.get(key))
                    store.delete_key(key)
                    self._read[rank] += 1
            return messages

    def post(self, bulletin: bytes) -> None:
        """Replace what every rank can read."""
        with self._use() as store:
            store.set('board', bulletin)

    def read(self) -> bytes:
        """Return what rank 0 has posted last."""
        with self._use() as store:
            return bytes(store.get('board'))


def _has_queues(store: Any) -> bool:
    while isinstance(store, PrefixStore):
        store = store.underlying_store
    return isinstance(store, HashStore) or (isinstance(store, TCPStore) and getattr(store, 'libuvBackend', False))


def default_transport() -> Transport:
    """Return this process's transport: through the rendezvous store if ``torch.distributed`` is initialised.

    Every rank must call it equally often: the n-th monitor of one rank talks to the n-th of the others.
    """
    instance = next(_instances)
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return LocalTransport()
    # The default group's store has no public accessor; torch's own checkpointing uses this one too.
    store: Any = dist.distributed_c10d._get_default_store()
    return StoreTransport(store.clone, dist.get_rank(), dist.get_world_size(), f'ding_normmon/{instance}')
