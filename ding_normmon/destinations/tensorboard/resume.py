"""Event files of an earlier start of a run: hiding what the resumed run does again.

Nothing is taken out. In an event that is abandoned, the number of the field that holds its figures is changed in place
to one that no reader knows: the event keeps its length and its content, and every reader passes over it.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator, Sequence
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


def drop_records(folder: Path, iteration: int, abandoned: tuple[float, float] | None = None) -> int:
    """Hide what is abandoned in all event files of a folder; return how many of the monitor's records that were.

    The monitor's records are abandoned from ``iteration`` on. What others have written beside them, such as returns,
    may count environment steps; it is abandoned if it was written after the checkpoint. Everything else stays as it is,
    byte for byte, and so do files without records of the monitor.

    Arguments:
        folder: of the event files.
        iteration: at which the run is resumed.
        abandoned: when the checkpoint was made, and when the run was resumed, in seconds since 1970.
    """
    dropped = 0
    for path in sorted(folder.glob('events.out.tfevents.*')):
        if not path.is_file():
            continue
        try:
            dropped += _drop_records(path, iteration, abandoned)
        except OSError as error:
            why = error.strerror or error
            logger.warning('monitor: %s stays as it is (%s); it shows what is trained again twice', path, why)
    if dropped:
        logger.info('monitor: %d records of iteration %d and later are hidden in %s', dropped, iteration, folder)
    return dropped


def _drop_records(path: Path, iteration: int, abandoned: tuple[float, float] | None) -> int:
    # A link is not followed: whoever can write into the folder must not choose which file is changed.
    file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return 0
        data = path.read_bytes()
        events = list(_events(data))
        records = [frame for frame, event in events if _is_record(event) and event.step >= iteration]
        for frame in [*records, *(_others(events, *abandoned) if abandoned is not None else [])]:
            hidden = _hidden(data, frame)
            os.pwrite(file, hidden + checksum(hidden), frame.start)
        return len(records)
    finally:
        os.close(file)


def _events(data: bytes) -> Iterator[tuple[Frame, Event]]:
    """Yield the events that have figures."""
    for frame in read_frames(data):
        if not frame.is_intact:
            continue
        try:
            event = Event.FromString(data[frame.start : frame.stop])
        except DecodeError:
            # Another program's, or damaged before its checksum was made.
            continue
        if event.summary.value:
            yield frame, event


def _is_record(event: Event) -> bool:
    return any(value.tag == _MARK for value in event.summary.value)


def _others(events: Sequence[tuple[Frame, Event]], saved: float, resumed: float) -> list[Frame]:
    """Return what others have written between a checkpoint and the resumption."""
    if not any(_is_record(event) for _, event in events):
        return []
    found: list[Frame] = []
    for frame, event in reversed(events):
        if _is_record(event):
            # Records are written some time after the iteration that they are of.
            continue
        if event.wall_time <= saved:
            # Whatever a clock that was set says, what stands before an event was written before it.
            break
        if event.wall_time < resumed:
            found.append(frame)
    return found


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
