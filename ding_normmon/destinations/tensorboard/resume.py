"""Removes the records from a run's event files that the resumed run will measure again."""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event

__all__ = ['drop_records']

logger = logging.getLogger('ding_normmon')

_LENGTH = struct.Struct('<Q')
_CHECK = 4
_MARK = 'monitor/cost/ms'
"""A figure in every record, by which events with a record are recognised."""


def drop_records(folder: Path, iteration: int) -> int:
    """Remove the records of ``iteration`` and later from all event files of a folder; return their number.

    All other events stay as they are, byte for byte. A file is replaced in one move, and only if it has such records.

    Arguments:
        folder: folder of the event files, which must not be open for writing.
        iteration: iteration at which the run is resumed.
    """
    dropped = 0
    for path in sorted(folder.glob('events.out.tfevents.*')):
        frames = list(_frames(path.read_bytes()))
        kept = [frame for frame in frames if not _is_record(frame, iteration)]
        if len(kept) == len(frames):
            continue
        dropped += len(frames) - len(kept)
        unfinished = path.with_name(f'unfinished.{path.name}')
        unfinished.write_bytes(b''.join(kept))
        os.replace(unfinished, path)
    if dropped:
        logger.info('monitor: %d records from iteration %d on were removed from %s', dropped, iteration, folder)
    return dropped


def _frames(data: bytes) -> Iterator[bytes]:
    """Yield the frames of a file, without an incomplete last one, as left by a killed process."""
    start = 0
    while start + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, start)
        stop = start + _LENGTH.size + _CHECK + length + _CHECK
        if stop > len(data):
            return
        yield data[start:stop]
        start = stop


def _is_record(frame: bytes, iteration: int) -> bool:
    event = Event.FromString(frame[_LENGTH.size + _CHECK : -_CHECK])
    return event.step >= iteration and any(value.tag == _MARK for value in event.summary.value)
