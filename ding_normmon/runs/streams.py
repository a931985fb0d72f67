"""The streams of a history file: everything in it that is whole, whatever happened to the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ding_normmon.runs.chunks import MARK, Chunk, is_torn, scan
from ding_normmon.runs.format import EXTRA, HEADER, SCALAR, SCHEMA, VERSION, beginning
from ding_normmon.runs.frames import BATCH, END_OF_STREAM, Frame, FrameError, frames
from ding_normmon.runs.frames import SCHEMA as SCHEMA_FRAME
from ding_normmon.runs.header import Header, read_header

__all__ = ['Damage', 'History', 'Rows', 'Stream', 'read_streams']

_MOST_FAILURES = 100
"""Stretches of one stream that are tried in vain before the rest is left alone."""

_UNREADABLE = (pa.ArrowException, OSError, EOFError, ValueError, TypeError, MemoryError, OverflowError)
"""What Arrow raises at what it cannot read."""


@dataclass(frozen=True)
class Damage:
    """Bytes that cannot be read.

    Arguments:
        start: position of the first.
        stop: position behind the last.
        reason: what is wrong; empty where nothing is lost.
        is_torn: whether it is a record that was being written when the process ended.
    """

    start: int
    stop: int
    reason: str
    is_torn: bool = False


@dataclass(frozen=True)
class Rows:
    """Rows of a stream, in the order in which they were written.

    Arguments:
        iterations: int64, shape (N,).
        times: float64, shape (N,): seconds since 1970.
        kinds: int64, shape (N,): what each row is.
        codes: int64, shape (N,): which name it has.
        values: float64, shape (N,).
        texts: of the rows that are no scalars, by row.
    """

    iterations: npt.NDArray[np.int64]
    times: npt.NDArray[np.float64]
    kinds: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    texts: dict[int, str]


@dataclass
class Stream:
    """What one start of a run wrote.

    Arguments:
        start: position in the file.
        header: what it says of the run; None where that is lost.
        names: name by code; None where it is lost.
        rows: what was written.
        session: of sealed streams.
        chunks: number of its first and its last intact chunk, of sealed streams.
        records: how many intact records it has.
        lost: how many of its records are damaged, as far as the numbers of the others tell.
        odd: rows that are none, such as one without a name.
    """

    start: int
    header: Header | None
    names: list[str | None]
    rows: Rows
    session: str = ''
    chunks: tuple[int, int] = (0, 0)
    records: int = 0
    lost: int = 0
    odd: int = 0


@dataclass
class History:
    """Everything in a history file.

    Arguments:
        size: of the file, in bytes.
        streams: what is whole, in the order in which it was written.
        damages: what is not.
        is_marked: whether a header or a seal of ours stands in it, damaged or not.
        is_ended: whether its last stream was ended.
        last_chunk: first byte of the last intact chunk, and the byte behind it; zeros if the last stream has no seals.
    """

    size: int = 0
    streams: list[Stream] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)

    is_marked: bool = False
    is_ended: bool = False
    last_chunk: tuple[int, int] = (0, 0)

    @property
    def is_ours(self) -> bool:
        """Whether it was written by this package, as far as can be seen; so is a file of nothing but a torn record."""
        has_records = any(stream.records for stream in self.streams)
        return self.is_marked or has_records or all(damage.is_torn for damage in self.damages)

    @property
    def end(self) -> int:
        """Up to where the file is kept when it is gone on with: all of it but a torn last record."""
        return self.damages[-1].start if self.damages and self.damages[-1].is_torn else self.size

    def before_a_stream(self) -> bytes:
        """Return the bytes that a new stream needs before it at the end."""
        if not self.end or self.is_ended:
            return b''
        # Messages begin where a processor can read them.
        return bytes(-self.end % 8) + END_OF_STREAM


def read_streams(path: Path, start: int = 0) -> History:
    """Read everything that is whole in a history file, and tell what is not.

    Arguments:
        path: the file.
        start: position from which on it is read; positions in what is returned are those in the file.

    Raises:
        OSError: the file cannot be read at all.
    """
    with path.open('rb') as file:
        file.seek(start)
        history = _history(file.read())
    if start:
        history.size += start
        history.last_chunk = (history.last_chunk[0] + start, history.last_chunk[1] + start)
        history.damages = [replace(one, start=one.start + start, stop=one.stop + start) for one in history.damages]
        for stream in history.streams:
            stream.start += start
    return history


def _history(data: bytes) -> History:
    history = History(len(data), is_marked=MARK in data or HEADER in data[:4096])
    # Whatever moved, doubled or mixed its chunks, a session is one stream, in the order in which it was written.
    sessions: dict[str, dict[int, Chunk]] = {}
    for found in scan(data):
        if isinstance(found, Chunk):
            sessions.setdefault(found.session, {}).setdefault(found.number, found)
            history.last_chunk = (found.start, found.stop)
            continue
        if found.stop - found.start < 16 and data[found.start : found.stop].lstrip(b'\0') == END_OF_STREAM:
            continue
        for piece in _without_seals(data, found.start, found.stop):
            if isinstance(piece, Stream):
                history.streams.append(piece)
                history.last_chunk = (0, 0)
            else:
                _add(history.damages, piece)
    for chunks in sessions.values():
        ordered = [chunk for _, chunk in sorted(chunks.items())]
        history.streams.append(_sealed_stream(data, ordered, history.damages))
    history.streams.sort(key=lambda stream: stream.start)
    history.damages.sort(key=lambda damage: damage.start)
    history.is_ended = data.endswith(END_OF_STREAM)
    return history


def _add(damages: list[Damage], found: Damage) -> None:
    if damages and damages[-1].stop == found.start and not damages[-1].is_torn:
        damages[-1] = replace(damages[-1], stop=found.stop)
    else:
        damages.append(found)


# -- streams with seals -----------------------------------------------------------------------------------------------


def _stretches(chunks: Sequence[Chunk]) -> Iterator[list[Chunk]]:
    """Yield chunks that stand behind each other, which are read at once."""
    stretch: list[Chunk] = []
    for chunk in chunks:
        if stretch and (stretch[-1].stop, stretch[-1].number + 1) != (chunk.start, chunk.number):
            yield stretch
            stretch = []
        stretch.append(chunk)
    yield stretch


def _sealed_stream(data: bytes, chunks: Sequence[Chunk], damages: list[Damage]) -> Stream:
    """Return a stream from its intact chunks, in the order of their numbers."""
    schema, tables = SCHEMA, []
    names: dict[int, str] = {}
    header: Header | None = None
    pending, failures = list(_stretches(chunks))[::-1], 0
    while pending:
        run = pending.pop()
        try:
            table = _read(data, run, schema)
            tables.append(table)
        except _UNREADABLE as error:
            # Sealed all the same: made to be so, or by another version. Others of the stretch may be readable.
            failures += 1
            if len(run) > 1 and failures < _MOST_FAILURES:
                half = len(run) // 2
                pending += [run[half:], run[:half]]
            else:
                damage = f'{len(run)} records cannot be read: {_said(error)}'
                damages.append(Damage(run[0].start, run[-1].stop, damage))
            continue
        if run[0].number == 0:
            schema = table.schema
            header = read_header((schema.metadata or {}).get(HEADER))
        _learn(names, table, run[0].names_before)
    known = max((chunk.names_before for chunk in chunks), default=0)
    if header is None or any(code not in names for code in range(known)):
        for chunk in chunks:
            if chunk.has_extra:
                said, again = _extra(data, chunk, schema)
                header = header or said
                for code, name in again.items():
                    names.setdefault(code, name)
    listed = [names.get(code) for code in range(max(names, default=-1) + 1)]
    rows, odd = _rows(tables, [_codes(table) for table in tables])
    # What ends a stream is a chunk without rows.
    records = sum(len(batch) > 0 for table in tables for batch in table.column(0).chunks)
    start, numbers = min(chunk.start for chunk in chunks), (chunks[0].number, chunks[-1].number)
    stream = Stream(start, header, listed, rows, chunks[0].session, numbers, records, odd=odd)
    stream.lost = chunks[-1].number + 1 - len(chunks)
    return stream


def _read(data: bytes, run: Sequence[Chunk], schema: pa.Schema) -> pa.Table:
    """Return the rows of chunks that stand behind each other.

    Raises:
        ValueError: they are none.
    """
    piece = _decodable(data, run[0].start, run[-1].stop)
    if run[0].number:
        piece = pa.py_buffer(beginning(schema, run[0].names_before) + piece.to_pybytes())
    table = pa.ipc.open_stream(piece).read_all()
    _refuse_columns(table.schema)
    table.validate(full=True)
    return table


def _decodable(data: bytes, start: int, stop: int) -> pa.Buffer:
    for frame in frames(data, start, stop):
        if frame.is_compressed:
            raise ValueError('it is compressed, which no history file is: a few bytes could be any amount of memory')
    # Arrow wants numbers where a processor can read them.
    return pa.py_buffer(data)[start:stop] if start % 8 == 0 else pa.py_buffer(data[start:stop])


def _refuse_columns(schema: pa.Schema) -> None:
    for expected in SCHEMA:
        if len(schema.get_all_field_indices(expected.name)) != 1:
            raise ValueError(f'its columns are {", ".join(schema.names)[:200]}, not those of a history file')
        kind = schema.field(expected.name).type
        if expected.name == 'name' and pa.types.is_dictionary(kind):
            kind, wanted = kind.value_type, pa.string()
        elif expected.name == 'kind' and pa.types.is_integer(kind):
            continue
        else:
            wanted = expected.type
        if kind != wanted:
            raise ValueError(f'its column {expected.name} is of the type {kind}')


def _codes(table: pa.Table) -> npt.NDArray[Any]:
    return _joined([chunk.indices.to_numpy(zero_copy_only=False) for chunk in table.column('name').chunks])


def _joined(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)


def _learn(names: dict[int, str], table: pa.Table, before: int) -> None:
    """Take the names that a stretch of chunks has added."""
    chunks = table.column('name').chunks
    if not chunks:
        return
    dictionary = chunks[-1].dictionary
    for code, name in enumerate(dictionary.slice(before).to_pylist(), before):
        if name is not None:
            names.setdefault(code, name)


def _extra(data: bytes, chunk: Chunk, schema: pa.Schema) -> tuple[Header | None, dict[int, str]]:
    """Return what a chunk says again: the stream's header, and names by code."""
    try:
        piece = beginning(schema, chunk.names_before) if chunk.number else b''
        reader = pa.ipc.open_stream(piece + _decodable(data, chunk.start, chunk.stop).to_pybytes())
        metadata = None
        for _ in range(2 if chunk.number else 1):
            metadata = reader.read_next_batch_with_custom_metadata().custom_metadata
        content = json.loads((metadata or {})[EXTRA])
        first, said = int(content['first']), content['names']
        if not 0 <= first <= first + len(said) <= chunk.names_before:
            raise ValueError('names that are none of this stream')
        again = {code: str(name) for code, name in enumerate(said, first)}
        return read_header(content.get('header')), again
    except (*_UNREADABLE, KeyError, RecursionError, StopIteration):
        # It is said again elsewhere; what is nowhere is counted by whoever misses it.
        return None, {}


# -- streams of version 1, and of others ------------------------------------------------------------------------------


def _without_seals(data: bytes, start: int, stop: int) -> Iterator[Stream | Damage]:
    """Yield what a stretch without intact seals holds: streams of a version that had none, and what is damaged."""
    whole = _damage(data, start, stop)
    if whole.is_torn or data.find(MARK, start, stop) >= 0:
        yield whole
        return
    position = start
    while position < stop:
        found = _unsealed_stream(data, position, stop)
        if found is None:
            following = data.find(END_OF_STREAM[:4], position + 1, stop)
            following = stop if following < 0 else following
            yield _damage(data, position, following)
            position = following
            continue
        stream, behind, reason = found
        yield stream
        if reason:
            following = data.find(END_OF_STREAM[:4], behind + 1, stop)
            following = stop if following < 0 else following
            yield _damage(data, behind, following, reason)
            behind = following
        position = behind


def _damage(data: bytes, start: int, stop: int, reason: str = '') -> Damage:
    if stop == len(data) and is_torn(data[start:stop]):
        # Half of what ends a stream is no loss.
        reason = '' if END_OF_STREAM.startswith(data[start:stop]) else 'it ends in the middle of a record'
        return Damage(start, stop, reason, is_torn=True)
    return Damage(start, stop, reason or 'the bytes are damaged')


def _unsealed_stream(data: bytes, start: int, stop: int) -> tuple[Stream, int, str] | None:
    """Return the stream without seals that begins at a position, up to where it is whole, and what is wrong there."""
    found: list[Frame] = []
    reason = ''
    try:
        for frame in frames(data, start, stop):
            if not found and frame.kind != SCHEMA_FRAME:
                return None
            if found and frame.kind == SCHEMA_FRAME:
                break
            if frame.is_compressed:
                reason = 'it is compressed, which no history file is: a few bytes could be any amount of memory'
                break
            found.append(frame)
    except FrameError as error:
        reason = str(error)
    if not found:
        return None
    tables: list[pa.Table] = []
    header: Header | None = None
    behind = found[0].stop
    try:
        reader = pa.ipc.open_stream(_decodable(data, found[0].start, found[-1].stop))
        raw = (reader.schema.metadata or {}).get(HEADER)
        header = read_header(raw)
        if raw is not None and header is not None and header.version >= VERSION:
            # Its records have lost their seals: what stands in them cannot be believed.
            return None
        _refuse_columns(reader.schema)
        for frame in found[1:]:
            if frame.kind == BATCH:
                batch = reader.read_next_batch()
                batch.validate(full=True)
                tables.append(pa.Table.from_batches([batch]))
            behind = frame.stop
    except (*_UNREADABLE, StopIteration) as error:
        reason = _said(error)
    if not reason and data[behind : behind + 8] == END_OF_STREAM:
        behind += 8
    table = _one_dictionary(tables)
    names = table.column('name').chunk(0).dictionary.to_pylist() if table is not None else []
    kept = [] if table is None else [table]
    rows, odd = _rows(kept, [_codes(entry) for entry in kept])
    return Stream(found[0].start, header, names, rows, records=len(tables), odd=odd), behind, reason


def _one_dictionary(tables: list[pa.Table]) -> pa.Table | None:
    if not tables:
        return None
    table = pa.concat_tables(tables)
    at = table.schema.get_field_index('name')
    column = table.column(at)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    column = column.unify_dictionaries().combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0)
    return table.set_column(at, 'name', pa.chunked_array([column]))


# -- rows --------------------------------------------------------------------------------------------------------------


def _rows(tables: Sequence[pa.Table], codes: Sequence[npt.NDArray[Any]]) -> tuple[Rows, int]:
    """Return the columns of tables behind each other, without rows that lack something; and how many those were."""

    def column(name: str) -> npt.NDArray[Any]:
        return _joined([table.column(name).to_numpy() for table in tables])

    def has(name: str) -> npt.NDArray[Any]:
        return _joined([table.column(name).is_valid().to_numpy() for table in tables]).astype(bool)

    kinds, numbers = column('kind'), _joined(list(codes))
    whole = np.ones(len(kinds), bool)
    for name in ('iteration', 'time', 'kind', 'name'):
        if any(table.column(name).null_count for table in tables):
            whole &= has(name)
    valued, texted = has('value'), has('text')
    whole &= np.where(kinds == SCALAR, valued, texted)
    iterations, times, values = column('iteration'), column('time'), column('value')
    odd = int(len(whole) - whole.sum())
    texts: dict[int, str] = {}
    written = whole & (kinds != SCALAR)
    if written.any():
        every = pa.chunked_array([chunk for table in tables for chunk in table.column('text').chunks], pa.string())
        places = np.cumsum(whole) - 1
        chosen = np.flatnonzero(written)
        found = every.take(pa.array(chosen)).to_pylist()
        texts = dict(zip(places[chosen].tolist(), found, strict=True))
    if odd:
        kinds, numbers, iterations = kinds[whole], numbers[whole], iterations[whole]
        times, values = times[whole], values[whole]
    return (
        Rows(
            iterations.astype(np.int64, copy=False),
            times.astype(np.float64, copy=False),
            kinds.astype(np.int64, copy=False),
            numbers.astype(np.int64, copy=False),
            values.astype(np.float64, copy=False),
            texts,
        ),
        odd,
    )


def _said(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
