"""Event files of an earlier part of a run: hiding what the resumed run will measure again.

Nothing is taken out. In an event that is abandoned the number of the field that holds its figures is changed to one
that no reader knows, in its place: the event has the same length and its content, and every reader passes over it.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorboardX.proto.event_pb2 import Event

from ding_normmon.destinations.tensorboard.frames import Frame, checksum, read_frames

__all__ = ['drop_records']

logger = logging.getLogger('ding_normmon')

_MARK = 'monitor/cost/ms'
"""Every record has this figure, and nothing else has it."""

_SUMMARY = (5 << 3) | 2
"""The key of an event's figures."""

_HIDDEN = (15 << 3) | 2
"""A key that no event has."""

_FIXED = {1: 8, 5: 4}
"""Bytes of a field by wire type, of those that have a fixed number."""


def drop_records(folder: Path, iteration: int) -> int:
    """Hide the monitor's records of ``iteration`` and later in all event files of a folder; return how many.

    Everything else stays as it is, byte for byte: one record is one event.

    Arguments:
        folder: of the event files.
        iteration: at which the run is resumed.
    """
    dropped = 0
    for path in sorted(folder.glob('events.out.tfevents.*')):
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                continue
            data = path.read_bytes()
            for frame in read_frames(data):
                if frame.is_intact and _is_record(data[frame.start : frame.stop], iteration):
                    hidden = _hidden(data, frame)
                    os.pwrite(file, hidden + checksum(hidden), frame.start)
                    dropped += 1
        finally:
            os.close(file)
    if dropped:
        logger.info('monitor: %d records of iteration %d and later are hidden in %s', dropped, iteration, folder)
    return dropped


def _is_record(data: bytes, iteration: int) -> bool:
    try:
        event = Event.FromString(data)
    except DecodeError:
        # Another program's, or damaged before its checksum was made.
        return False
    return event.step >= iteration and any(value.tag == _MARK for value in event.summary.value)


def _hidden(data: bytes, frame: Frame) -> bytes:
    """Return an event's bytes without a summary that a reader would find."""
    event = bytearray(data[frame.start : frame.stop])
    for position, key in _fields(event):
        if key == _SUMMARY:
            event[position] = _HIDDEN
    return bytes(event)


def _fields(event: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Yield position and key of each field of a message."""
    position = 0
    while position < len(event):
        begin = position
        key, position = _number(event, position)
        yield begin, key
        kind = key & 7
        if kind == 2:
            length, position = _number(event, position)
            position += length
        elif kind == 0:
            _, position = _number(event, position)
        else:
            position += _FIXED[kind]


def _number(event: bytes | bytearray, position: int) -> tuple[int, int]:
    """Return the number of variable length at a position, and the position behind it."""
    value = shift = 0
    while True:
        byte = event[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
