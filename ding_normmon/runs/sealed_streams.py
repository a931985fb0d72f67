"""Streams of a history file whose records carry seals: chunks with a number and a checksum."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import pyarrow as pa

from ding_normmon.runs.arrow_rows import UNREADABLE, decodable, first_line, refuse_columns, rows_of
from ding_normmon.runs.chunks import Chunk
from ding_normmon.runs.format import EXTRA, HEADER, SCHEMA, beginning
from ding_normmon.runs.header import Header, read_header
from ding_normmon.runs.stream import Damage, Stream

__all__ = ['sealed_stream']

_MOST_FAILURES = 100
"""Stretches of one stream that are tried in vain before the rest is left alone."""


def _stretches(chunks: Sequence[Chunk]) -> Iterator[list[Chunk]]:
    """Yield chunks that stand behind each other, which are read at once."""
    stretch: list[Chunk] = []
    for chunk in chunks:
        if stretch and (stretch[-1].stop, stretch[-1].number + 1) != (chunk.start, chunk.number):
            yield stretch
            stretch = []
        stretch.append(chunk)
    yield stretch


def sealed_stream(data: bytes, chunks: Sequence[Chunk], damages: list[Damage]) -> Stream:
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
        except UNREADABLE as error:
            # Sealed all the same: made to be so, or by another version. Others of the stretch may be readable.
            failures += 1
            if len(run) > 1 and failures < _MOST_FAILURES:
                half = len(run) // 2
                pending += [run[half:], run[:half]]
            else:
                damage = f'{len(run)} records cannot be read: {first_line(error)}'
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
    rows, odd = rows_of(tables)
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
    piece = decodable(data, run[0].start, run[-1].stop)
    if run[0].number:
        piece = pa.py_buffer(beginning(schema, run[0].names_before) + piece.to_pybytes())
    table = pa.ipc.open_stream(piece).read_all()
    refuse_columns(table.schema)
    table.validate(full=True)
    return table


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
        reader = pa.ipc.open_stream(piece + decodable(data, chunk.start, chunk.stop).to_pybytes())
        metadata = None
        for _ in range(2 if chunk.number else 1):
            metadata = reader.read_next_batch_with_custom_metadata().custom_metadata
        content = json.loads((metadata or {})[EXTRA])
        first, said = int(content['first']), content['names']
        if not 0 <= first <= first + len(said) <= chunk.names_before:
            raise ValueError('names that are none of this stream')
        again = {code: str(name) for code, name in enumerate(said, first)}
        return read_header(content.get('header')), again
    except (*UNREADABLE, KeyError, RecursionError, StopIteration):
        # It is said again elsewhere; what is nowhere is counted by whoever misses it.
        return None, {}
