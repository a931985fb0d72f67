"""What one record is in a history file: a chunk of bytes with a seal that shows damage and can be found behind it.

A chunk holds whole messages of Arrow's streaming format. Its seal is a text of fixed length inside them (metadata of
the record batch), so that plain Arrow reads the file too. It says, with spaces between::

    nmon2, session (16 hex digits), number, names before, offset of the seal, length, has extra, CRC-32 (8 hex digits)

The checksum is that of all bytes of the chunk, with zeros where it stands itself. A session is what one writer wrote
without a break; its chunks are numbered from 0.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ding_normmon.runs.frames import BATCH, END_OF_STREAM, FrameError, frames

__all__ = ['MARK', 'Chunk', 'Gap', 'is_torn', 'new_session', 'scan', 'seal', 'unsealed']

MARK = b'nmon2 '
"""How every seal begins."""

_SEAL = re.compile(rb'nmon2 ([0-9a-f]{16}) (\d{10}) (\d{10}) (\d{10}) (\d{12}) ([01]) ([0-9a-f]{8})')
_LENGTH = 79
_NO_CHECK = b'00000000'
_PATIENCE = 16
_MOST_NAMES = 100_000


@dataclass(frozen=True)
class Chunk:
    """The place of an intact chunk.

    Arguments:
        start: position of its first byte.
        stop: position behind its last byte.
        session: which writer wrote it.
        number: its place in the session.
        names_before: how many names the session's dictionary has before it.
        has_extra: whether its metadata holds more than the seal.
    """

    start: int
    stop: int
    session: str
    number: int
    names_before: int
    has_extra: bool


@dataclass(frozen=True)
class Gap:
    """A stretch of a file that is no intact chunk."""

    start: int
    stop: int


def new_session() -> str:
    """Return the name of a session, 16 hex digits."""
    return os.urandom(8).hex()


def unsealed(session: str, number: int, names_before: int, has_extra: bool) -> str:
    """Return a seal that :func:`seal` completes when the chunk's bytes are there.

    Example:
        >>> len(unsealed('0' * 16, 3, 12, False)) == _LENGTH
        True
    """
    return f'nmon2 {session} {number:010d} {names_before:010d} {0:010d} {0:012d} {int(has_extra)} {"0" * 8}'


def seal(data: bytes, text: str) -> bytes:
    """Return a chunk's bytes with its seal completed.

    Arguments:
        data: the bytes, in which ``text`` stands.
        text: what :func:`unsealed` returned.

    Example:
        >>> text = unsealed('0' * 16, 0, 0, False)
        >>> data = seal(b'something ' + text.encode() + b' and more', text)
        >>> [(chunk.start, chunk.stop == len(data)) for chunk in scan(data)]
        [(0, True)]
        >>> list(scan(data.replace(b'more', b'less')))
        [Gap(start=0, stop=98)]
    """
    found = text.encode()
    offset = data.rindex(found)
    completed = found[:45] + b'%010d %012d ' % (offset, len(data)) + found[69:-8]
    unchecked = data[:offset] + completed + _NO_CHECK + data[offset + _LENGTH :]
    return unchecked[: offset + _LENGTH - 8] + b'%08x' % zlib.crc32(unchecked) + unchecked[offset + _LENGTH :]


def scan(data: Any) -> Iterator[Chunk | Gap]:
    """Yield the intact chunks of a file and what lies between them, from its beginning to its end.

    What is damaged costs itself: behind it the next intact chunk is found wherever it stands.

    Arguments:
        data: bytes, or a memory map.
    """
    view = memoryview(data)
    try:
        position, search = 0, 0
        patience = _PATIENCE * len(view) + (1 << 26)
        while patience > 0:
            found = data.find(MARK, search)
            if found < 0:
                break
            chunk = _chunk_at(view, found, position)
            if isinstance(chunk, int):
                # A file may be made of seals that all claim to be of the whole of it.
                patience -= chunk
                search = found + 1
                continue
            if chunk.start > position:
                yield Gap(position, chunk.start)
            yield chunk
            position = search = chunk.stop
        if position < len(view):
            yield Gap(position, len(view))
    finally:
        view.release()


def _chunk_at(view: memoryview, found: int, lowest: int) -> Chunk | int:
    """Return the intact chunk whose seal stands at a position, or how many bytes were looked at to see that none is."""
    fields = _SEAL.fullmatch(view[found : found + _LENGTH])
    if fields is None:
        return _LENGTH
    session, number, names, offset, length, extra, check = fields.groups()
    start = found - int(offset)
    stop = start + int(length)
    # A name takes some bytes: more names than that are not in any file.
    if start < lowest or stop < found + _LENGTH or stop > len(view) or int(names) > _MOST_NAMES + start // 4:
        return _LENGTH
    at = found + _LENGTH - 8
    crc = zlib.crc32(view[at + 8 : stop], zlib.crc32(_NO_CHECK, zlib.crc32(view[start:at])))
    if crc != int(check, 16):
        return stop - start
    return Chunk(start, stop, session.decode(), int(number), int(names), extra == b'1')


def is_torn(data: bytes) -> bool:
    """Tell whether bytes are the beginning of a chunk whose end never reached the disk, or nothing at all.

    Example:
        >>> text = unsealed('0' * 16, 0, 0, False)
        >>> whole = seal(b'something ' + text.encode() + b' and more', text)
        >>> is_torn(whole[:-1]), is_torn(whole), is_torn(bytes(8)), is_torn(END_OF_STREAM[:5])
        (True, False, True, True)
    """
    if data.count(0) == len(data) or END_OF_STREAM.startswith(data):
        return True
    found = data.find(MARK)
    if found >= 0:
        fields = _SEAL.fullmatch(data[found : found + _LENGTH])
        if fields is None:
            return found + _LENGTH > len(data)
        return found - int(fields[4]) + int(fields[5]) > len(data)
    # The seal comes late in a chunk: without it, messages lead to the end of the file.
    try:
        # The record batch comes last: where it is whole, nothing is missing.
        return all(frame.kind != BATCH for frame in frames(data))
    except FrameError as error:
        return error.is_cut
