"""Reading the streams of a history file, as far as they are whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

__all__ = ['read_batches', 'whole_streams']

_END_OF_STREAM = b'\xff\xff\xff\xff\x00\x00\x00\x00'


def read_batches(path: Path) -> Iterator[tuple[pa.Schema, pa.RecordBatch | None, str, int]]:
    """Yield what is whole in a history file.

    Yields:
        the schema of the stream, a batch, what is wrong (empty as long as nothing is), and the position behind it. At
        the end of each stream, and where something is wrong, the batch is None.
    """
    with pa.memory_map(str(path), 'r') as source:
        size = source.size()
        while source.tell() < size:
            begin = source.tell()
            try:
                reader = pa.ipc.open_stream(source)
            except (pa.ArrowInvalid, OSError, EOFError) as error:
                yield pa.schema([]), None, str(error) or 'it ends in the middle of a header', begin
                return
            position = source.tell()
            while True:
                try:
                    batch = reader.read_next_batch()
                except StopIteration:
                    position = source.tell()
                    # Arrow takes the end of the file for the end of the stream.
                    source.seek(max(0, position - 8))
                    ended = source.read(8) == _END_OF_STREAM
                    yield reader.schema, None, '' if ended else 'unfinished', position
                    break
                except (pa.ArrowInvalid, OSError, EOFError) as error:
                    yield reader.schema, None, str(error) or 'it ends in the middle of a record', position
                    return
                position = source.tell()
                yield reader.schema, batch, '', position


def whole_streams(path: Path) -> tuple[int, bytes]:
    """Return up to where a history file is whole, and the bytes that a new stream needs before it there."""
    position, ended, any_batch = 0, True, False
    for _, batch, wrong, behind in read_batches(path):
        if batch is not None:
            position, ended, any_batch = behind, False, True
        elif not wrong:
            position, ended = behind, True
        elif wrong == 'unfinished':
            position, ended = behind, False
    return position, b'' if ended or not any_batch else _END_OF_STREAM
