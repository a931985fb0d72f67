"""Streams of a history file without seals, as its first version wrote them, and what is damaged."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from ding_normmon.runs.arrow_rows import UNREADABLE, decodable, first_line, refuse_columns, rows_of
from ding_normmon.runs.chunks import MARK, is_torn
from ding_normmon.runs.format import HEADER, VERSION
from ding_normmon.runs.frames import BATCH, END_OF_STREAM, Frame, FrameError, frames
from ding_normmon.runs.frames import SCHEMA as SCHEMA_FRAME
from ding_normmon.runs.header import Header, read_header
from ding_normmon.runs.stream import Damage, Stream

__all__ = ['without_seals']


def without_seals(data: bytes, start: int, stop: int) -> Iterator[Stream | Damage]:
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
        reader = pa.ipc.open_stream(decodable(data, found[0].start, found[-1].stop))
        raw = (reader.schema.metadata or {}).get(HEADER)
        header = read_header(raw)
        if raw is not None and header is not None and header.version >= VERSION:
            # Its records have lost their seals: what stands in them cannot be believed.
            return None
        refuse_columns(reader.schema)
        for frame in found[1:]:
            if frame.kind == BATCH:
                batch = reader.read_next_batch()
                batch.validate(full=True)
                tables.append(pa.Table.from_batches([batch]))
            behind = frame.stop
    except (*UNREADABLE, StopIteration) as error:
        reason = first_line(error)
    if not reason and data[behind : behind + 8] == END_OF_STREAM:
        behind += 8
    table = _one_dictionary(tables)
    names = table.column('name').chunk(0).dictionary.to_pylist() if table is not None else []
    kept = [] if table is None else [table]
    rows, odd = rows_of(kept)
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
