"""Collects the rows of all ranks on rank 0, matched by iteration, without blocking any learner.

All communication happens in one background thread per rank. On other ranks the thread sends the rank's rows and reads
rank 0's bulletin. On rank 0 it posts the bulletin, receives rows, and passes on an iteration's batches when every rank
has reported or the deadline has passed (:mod:`ding_normmon.ranks.collector`).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from ding_normmon.core.lost_data import LostData
from ding_normmon.ranks.collector import Collector
from ding_normmon.ranks.decisions.control import Control
from ding_normmon.ranks.message import (
    CONTROL,
    Message,
    MessageError,
    Schema,
    decode,
    encode,
    encode_answer,
    encode_schema,
    schema_digest,
    vectors_of,
)
from ding_normmon.ranks.ownership import Ownership
from ding_normmon.ranks.transport import LARGEST_MESSAGE, WAITING_BYTES, Transport, TransportError
from ding_normmon.ranks.work_queue import WorkQueue
from ding_normmon.rows.table import Batch
from ding_normmon.rows.waiting_batch import WaitingBatch

__all__ = ['Reducer', 'queue_of']

POLL_SECONDS = 0.02
"""Seconds between two checks for messages on rank 0 while an iteration is incomplete."""

BEAT_SECONDS = 1.0
"""Seconds between two bulletins of rank 0, and between two reads by the other ranks."""

_SCHEMA_EVERY = 32
"""A schema is sent again after this many messages, so that one lost message costs a few records and not all."""

_SCHEMAS_PER_RANK = 16
_OWN_SCHEMAS = 4

# Leaves room for the schema and the note.
_MOST_OF_A_MESSAGE = LARGEST_MESSAGE * 7 // 8


_QUEUE_SIZE = 256
"""Batches that may wait for the background thread; the oldest is dropped beyond that."""


def queue_of(rank: int) -> WorkQueue[Batch | WaitingBatch]:
    """Return the queue of one rank's background thread; the learner tells it when a backward pass begins."""
    # Rank 0 has most to do. What the others send is gone with them unless it is under way.
    if rank == 0:
        return WorkQueue(_QUEUE_SIZE, size_of=_bytes_of)
    return WorkQueue(_QUEUE_SIZE, seconds=0.0, size_of=_bytes_of)


def _bytes_of(entry: Batch | WaitingBatch) -> int:
    return entry.nbytes


class Reducer:
    """Brings the batches of all ranks together.

    Arguments:
        transport: the connection between the ranks.
        finish: takes, on rank 0 and in the background thread, the iteration, its batches by rank (ascending) and the
            number of missing ranks.
        lost_data: where lost_data are counted; those of other ranks arrive with their rows.
        control: rank 0's decisions, which travel over the same connection.
        deadline: seconds that rank 0 waits for rows that others have sent, and after which the others hold a silent
            rank 0 for dead and drop their rows.
        session: 8 bytes that tell this run's messages from those of others.
        ownership: which rank may report what.
        finished: called in the background thread when it has nothing more to finish for now.
        queue: of the background thread, by default :func:`queue_of` this rank.
    """

    def __init__(
        self,
        transport: Transport,
        finish: Callable[[int, list[Batch], int], None],
        lost_data: LostData,
        control: Control,
        deadline: float,
        session: bytes,
        ownership: Ownership,
        finished: Callable[[], None] = lambda: None,
        queue: WorkQueue[Batch | WaitingBatch] | None = None,
    ) -> None:
        self._transport = transport
        self._finish = finish
        self._finished = finished
        self._lost = lost_data
        self._control = control
        self._deadline = deadline
        self._session = session
        self._queue = queue_of(transport.rank) if queue is None else queue
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        # Only the background thread uses the following.
        self._alone = transport.world_size == 1
        self._next_beat = 0.0
        self._beat_read = self._beat_seen = time.monotonic()
        self._beat_count = -1
        self._collector = Collector(transport.world_size, deadline, lost_data, ownership)
        self._schemas: dict[bytes, Schema] = {}
        self._sent_schemas: dict[bytes, int] = {}
        # Records have different keys if metrics have frequencies of their own.
        self._own_schemas: deque[tuple[Schema, bytes, bytes]] = deque(maxlen=_OWN_SCHEMAS)
        if not self._alone:
            self._start()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name='ding_normmon', daemon=True)
                self._thread.start()

    def submit(self, batch: Batch | WaitingBatch) -> None:
        """Queue this rank's rows of one iteration and return at once; a waiting batch is made in the background."""
        if self._thread is None:
            self._start()
        dropped = self._queue.put(batch)
        if dropped:
            self._lost.count(
                'queue_full',
                'the oldest rows were dropped because the background thread is too slow, or stuck in a store that does '
                'not answer. If rank 0 is alive, measure less often (monitor_norm_freq)',
                amount=dropped,
            )

    def flush(self) -> None:
        """Send or publish the queued rows now, in the background thread."""
        self._queue.flush()

    def close(self, timeout: float) -> None:
        """Send or publish the remaining rows for at most ``timeout`` seconds; count those that are left."""
        thread = self._thread
        if thread is None:
            return
        self._queue.close()
        thread.join(timeout)
        if thread.is_alive():
            # Publish incomplete iterations as they are.
            self._queue.close(abandon=True)
            thread.join(min(timeout, 1.0))
        left = len(self._queue) + len(self._collector)
        if left:
            self._lost.count('closed', f'the rows of {left} iterations were unfinished when the monitor closed', left)

    # -- the background thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            entries = self._queue.take(self._pause())
            closing, abandon = self._queue.is_closing, self._queue.is_abandoned
            try:
                self._turn(list(self._made(entries)), abandon)
            except (Exception, SystemExit, KeyboardInterrupt) as error:
                self._lost.count('background', f'error in the background thread: {type(error).__name__}: {error}')
            if closing and not self._queue and (abandon or not self._collector):
                self._say_goodbye()
                return
            if closing:
                time.sleep(POLL_SECONDS)

    def _made(self, entries: Iterable[Batch | WaitingBatch]) -> Iterator[Batch]:
        for entry in entries:
            try:
                yield entry.get() if isinstance(entry, WaitingBatch) else entry
            except Exception as error:
                self._lost.count('background', f'rows could not be made ({type(error).__name__}: {error})')

    def _pause(self) -> float | None:
        if self._alone:
            return None
        until_beat = max(0.0, self._next_beat - time.monotonic())
        return min(until_beat, POLL_SECONDS) if self._collector else until_beat

    def _turn(self, batches: list[Batch], abandon: bool) -> None:
        now = time.monotonic()
        if not self._alone and now >= self._next_beat:
            self._next_beat = now + BEAT_SECONDS
            self._beat(now)
            self._receive(now)
        if self._transport.rank != 0:
            for batch in batches:
                self._send(batch)
            return
        for batch in batches:
            # Use one tuple for equal keys; merging recognises a known layout by the tuple's identity.
            keys = self._schema_of(batch)[0].keys
            self._collector.add(0, replace(batch, keys=keys), now)
        if self._collector and not self._alone:
            # Receive before checking deadlines: this process may have been suspended.
            self._receive(now)
        try:
            for ready in self._collector.ready(now, everything=abandon):
                self._finish(ready.iteration, ready.batches, len(ready.missing))
        finally:
            self._finished()

    def _beat(self, now: float) -> None:
        """Post the bulletin, or read it and answer."""
        try:
            if self._transport.rank == 0:
                self._transport.post(self._control.write_bulletin(now))
                return
            beat = self._control.read_bulletin(self._transport.read())
            # Take the time after reading, which is slow on a broken link.
            self._beat_read = time.monotonic()
            if beat != self._beat_count:
                self._beat_count, self._beat_seen = beat, self._beat_read
            for iteration, answer in self._control.take_answers():
                self._transport.send(encode_answer(self._transport.rank, self._session, iteration, answer))
        except TransportError as error:
            self._lost.count('beat', f'the rendezvous store could not be used ({error}); training goes on')

    def _schema_of(self, batch: Batch) -> tuple[Schema, bytes, bytes]:
        vectors = vectors_of(batch)
        for known in self._own_schemas:
            if known[0].keys == batch.keys and known[0].vectors == vectors:
                return known
        encoded = encode_schema(batch.keys, batch.vectors)
        new = (Schema(batch.keys, vectors), encoded, schema_digest(encoded))
        self._own_schemas.appendleft(new)
        return new

    def _send(self, batch: Batch) -> None:
        lost_data = self._lost.take()
        try:
            if self._control.closed:
                self._lost.give_back(lost_data)
                self._lost.count('rank0_closed', 'rank 0 has closed its monitor; later rows are dropped')
                return
            # Count silence between successful reads only: this process may have been suspended or cut off.
            silence = self._beat_read - self._beat_seen
            if silence > max(self._deadline, 2 * BEAT_SECONDS) or (
                silence > 3 * BEAT_SECONDS and self._transport.full()
            ):
                self._lost.give_back(lost_data)
                self._lost.count(
                    'rank0_silent',
                    f'rank 0 has been silent for {silence:.0f} s; rows are dropped until it answers, training goes on',
                )
                return
            if self._transport.sent_unasked >= WAITING_BYTES // 2 and self._transport.full():
                self._lost.give_back(lost_data)
                self._lost.count(
                    'rank0_behind',
                    f'{WAITING_BYTES >> 20} MB of rows wait for rank 0; rows are dropped until it has read them. '
                    f'Measure less often (monitor_norm_freq), or lower sketch_size',
                )
                return
            if batch.nbytes > _MOST_OF_A_MESSAGE:
                batch = self._without_vectors(batch)
            _, encoded, digest = self._schema_of(batch)
            sent = self._sent_schemas.get(digest, 0) % _SCHEMA_EVERY
            new = None if sent else encoded
            self._transport.send(encode(self._transport.rank, self._session, batch, digest, new, lost_data))
            self._sent_schemas[digest] = sent + 1
        except TransportError as error:
            self._lost.give_back(lost_data)
            self._lost.count('send', f'rows could not be sent ({error}); training goes on without them')

    def _without_vectors(self, batch: Batch) -> Batch:
        size = sum(vector.nbytes for vector in batch.vectors.values())
        self._lost.count(
            'too_large',
            f'{size / 1e6:.1f} MB of vectors (such as gradient sketches) do not fit into a message; the figures that '
            f'need them are left out. Lower sketch_size, or leave out conflict_blocks',
        )
        return replace(batch, vectors={})

    def _receive(self, now: float) -> None:
        if self._transport.rank != 0:
            return
        try:
            arrived = self._transport.receive()
        except TransportError as error:
            self._lost.count('receive', f'rows of the other ranks could not be read ({error})')
            return
        for data in arrived:
            try:
                self._accept(decode(data, self._session), now)
            except MessageError as error:
                self._lost.count(
                    'foreign_message', f'refused a message ({error}); does another job use this rendezvous?'
                )

    def _accept(self, message: Message, now: float) -> None:
        rank = message.rank
        if not 0 < rank < self._transport.world_size:
            raise MessageError(f'invalid sender: rank {rank}')
        if message.kind == CONTROL:
            self._collector.mark_alive(rank)
            self._control.receive_answer(rank, message.iteration, message.note)
            return
        self._lost.absorb(message.note)
        schema = self._schemas.get(message.digest) or message.schema
        if schema is not None and message.digest not in self._schemas:
            if len(self._schemas) >= _SCHEMAS_PER_RANK * self._transport.world_size:
                del self._schemas[next(iter(self._schemas))]
            # Equal digests mean equal schemas, whichever rank sent them.
            self._schemas[message.digest] = schema
        if schema is None or len(schema.keys) != len(message.rows):
            self._lost.count(
                'unknown_schema', f'rank {rank} sent rows whose keys are unknown; an earlier message was lost'
            )
            return
        vectors = schema.split(message.vectors)
        batch = Batch(message.iteration, schema.keys, message.rows, vectors, message.watched)
        self._collector.add(rank, batch, now)

    def _say_goodbye(self) -> None:
        if self._alone or self._transport.rank != 0:
            return
        try:
            self._transport.post(self._control.write_bulletin(time.monotonic(), closing=True))
        except TransportError as error:
            self._lost.count('beat', f'the rendezvous store could not be used ({error})')
