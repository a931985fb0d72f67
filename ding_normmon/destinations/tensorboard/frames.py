"""The frames of a TensorBoard event file: where each event begins and ends, and whether it is as it was written."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import crc32c

__all__ = ['CHECK_BYTES', 'Frame', 'checksum', 'read_frames']

_LENGTH = struct.Struct('<Q')
_CHECK = struct.Struct('<I')
_HEAD = _LENGTH.size + _CHECK.size

CHECK_BYTES = _CHECK.size
"""Bytes of the checksum behind an event."""


@dataclass(frozen=True)
class Frame:
    """One event, or a stretch that is none.

    Arguments:
        start: position of the event's first byte.
        stop: position behind its last byte.
        is_intact: whether its checksum is right.
        is_torn: whether the file ends in it.
    """

    start: int
    stop: int
    is_intact: bool = True
    is_torn: bool = False


def checksum(data: Any) -> bytes:
    """Return the masked CRC-32C of an event, as it stands behind it."""
    crc = crc32c.crc32c(data)
    return _CHECK.pack((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def read_frames(data: Any) -> Iterator[Frame]:
    """Yield the frames of a file; behind a damaged one the next intact one is looked for.

    Example:
        >>> event = b'an event'
        >>> frame = _LENGTH.pack(len(event)) + checksum(_LENGTH.pack(len(event))) + event + checksum(event)
        >>> [(found.start, found.stop, found.is_intact) for found in read_frames(frame + b'?' + frame)]
        [(12, 20, True), (24, 25, False), (37, 45, True)]
    """
    view = memoryview(data)
    position, size = 0, len(view)
    while position < size:
        length = _length_at(view, position)
        if length is None:
            following = _next_head(view, position + 1)
            yield Frame(position, following, is_intact=False, is_torn=size - position < _HEAD)
            position = following
            continue
        start, stop = position + _HEAD, position + _HEAD + length
        if stop + _CHECK.size > size:
            # A length whose checksum is right, and no room for so much: the process was ended while it wrote.
            yield Frame(position, size, is_intact=False, is_torn=True)
            return
        yield Frame(start, stop, is_intact=view[stop : stop + _CHECK.size] == checksum(view[start:stop]))
        position = stop + _CHECK.size


def _length_at(view: memoryview, position: int) -> int | None:
    if position + _HEAD > len(view):
        return None
    head = view[position : position + _LENGTH.size]
    if view[position + _LENGTH.size : position + _HEAD] != checksum(head):
        return None
    return int(_LENGTH.unpack(head)[0])


def _next_head(view: memoryview, position: int) -> int:
    # The upper half of a length is zero, in every file below 4 GB: most positions need no checksum.
    data = bytes(view[position:])
    at = data.find(_ZERO)
    while at >= 0:
        found = position + at - _LENGTH.size // 2
        if found >= position and _length_at(view, found) is not None:
            return found
        at = data.find(_ZERO, at + 1)
    return len(view)


_ZERO = bytes(4)
