"""The messages of Arrow's streaming format, found without decoding them.

Arrow says of a file only that it cannot be read. This says where its messages begin and end, whether the last one was
cut off, and which are compressed, so that nothing is decoded whose size is not known.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ['BATCH', 'DICTIONARY', 'END_OF_STREAM', 'SCHEMA', 'Frame', 'FrameError', 'frames']

END_OF_STREAM = b'\xff\xff\xff\xff\x00\x00\x00\x00'
"""How a stream ends."""

_CONTINUATION = END_OF_STREAM[:4]


class FrameError(ValueError):
    """Bytes that are no message of Arrow's.

    Attributes:
        is_cut: whether they are the beginning of one.
    """

    def __init__(self, message: str, is_cut: bool = False) -> None:
        super().__init__(message)
        self.is_cut = is_cut


SCHEMA, DICTIONARY, BATCH = 1, 2, 3
"""Kinds of messages, as Arrow numbers them."""


@dataclass(frozen=True)
class Frame:
    """Kind and position of one message.

    Arguments:
        kind: :data:`SCHEMA`, :data:`DICTIONARY`, :data:`BATCH` or another of Arrow's.
        start: position of its first byte.
        stop: position behind its body.
        is_compressed: whether its body is; a few bytes could then be any amount of memory.
    """

    kind: int
    start: int
    stop: int
    is_compressed: bool


_INT, _SHORT, _LONG = struct.Struct('<I'), struct.Struct('<H'), struct.Struct('<q')


def frames(data: Any, start: int = 0, stop: int | None = None) -> Iterator[Frame]:
    """Yield the messages of Arrow's streaming format one behind the other, without decoding them.

    Raises:
        FrameError: at the first position at which there is none.
    """
    end = len(data) if stop is None else stop
    position = start
    while position < end:
        if data[position : position + 4] != _CONTINUATION[: end - position]:
            raise FrameError(f'no message begins at byte {position}')
        if position + 8 > end:
            raise FrameError('a message is cut off', is_cut=True)
        size = _INT.unpack_from(data, position + 4)[0]
        if size == 0:
            position += 8
            continue
        body = position + 8 + size
        if size > _MOST_METADATA:
            raise FrameError(f'a message of {size} bytes of metadata at byte {position}')
        if body > end:
            raise FrameError('a message is cut off', is_cut=True)
        try:
            kind, length, is_compressed = _header(data, position + 8, body)
        except struct.error as error:
            raise FrameError(f'no message at byte {position}: {error}') from error
        if length < 0:
            raise FrameError(f'a message of {length} bytes at byte {position}')
        if body + length > end:
            raise FrameError('a message is cut off', is_cut=True)
        yield Frame(kind, position, body + length, is_compressed)
        position = body + length


_MOST_METADATA = 1 << 28


def _header(data: Any, start: int, stop: int) -> tuple[int, int, bool]:
    """Return kind, length of the body, and whether it is compressed, from a flatbuffer of Arrow's ``Message``."""
    table = start + _INT.unpack_from(data, start)[0]
    kind_at, header_at, length_at = (_field(data, table, stop, index) for index in (1, 2, 3))
    kind = data[kind_at] if kind_at else 0
    length = _LONG.unpack_from(data, length_at)[0] if length_at and length_at + 8 <= stop else 0
    if kind not in (DICTIONARY, BATCH) or not header_at:
        return kind, length, False
    batch = header_at + _INT.unpack_from(data, header_at)[0]
    if kind == DICTIONARY:
        batch_at = _field(data, batch, stop, 1)
        if not batch_at:
            return kind, length, False
        batch = batch_at + _INT.unpack_from(data, batch_at)[0]
    return kind, length, _field(data, batch, stop, 3) != 0


def _field(data: Any, table: int, stop: int, index: int) -> int:
    """Return the position of a field of a flatbuffer's table; 0 where it has none."""
    if not 0 <= table <= stop - 4:
        raise struct.error('a table outside of the message')
    fields = table - struct.unpack_from('<i', data, table)[0]
    if not 0 <= fields <= stop - 4:
        raise struct.error('a table outside of the message')
    slot = 4 + 2 * index
    if _SHORT.unpack_from(data, fields)[0] < slot + 2 or fields + slot + 2 > stop:
        return 0
    offset = _SHORT.unpack_from(data, fields + slot)[0]
    if offset and table + offset >= stop:
        raise struct.error('a field outside of the message')
    return table + offset if offset else 0
