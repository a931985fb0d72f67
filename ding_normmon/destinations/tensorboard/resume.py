"""Event files of an earlier part of a run: taking out what the resumed run will measure again."""

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
"""Every record has this figure, and nothing else has it."""


def drop_records(folder: Path, iteration: int) -> int:
    """Take the monitor's records of ``iteration`` and later out of all event files of a folder; how many there were.

    Everything else stays as it is, byte for byte: one record is one event. A file is replaced in one move, and only if
    there is something to take out.

    Arguments:
        folder: of the event files, no longer written to.
        iteration: at which the run is resumed.
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
        logger.info('monitor: %d records of iteration %d and later taken out of %s', dropped, iteration, folder)
    return dropped


def _frames(data: bytes) -> Iterator[bytes]:
    """Yield the frames of a file; one that was cut short, as when a process is killed, is left out."""
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
