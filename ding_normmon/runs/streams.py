"""Reads everything in a history file that is whole, whatever happened to the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ding_normmon.runs.chunks import MARK, Chunk, scan
from ding_normmon.runs.format import HEADER
from ding_normmon.runs.frames import END_OF_STREAM
from ding_normmon.runs.sealed_streams import sealed_stream
from ding_normmon.runs.stream import Damage, History, Stream
from ding_normmon.runs.unsealed_streams import without_seals

__all__ = ['read_streams']


def read_streams(path: Path, start: int = 0) -> History:
    """Read everything that is whole in a history file, and tell what is not.

    Arguments:
        path: the file.
        start: position from which on it is read; positions in what is returned are those in the file.

    Raises:
        OSError: the file cannot be read at all.
    """
    with path.open('rb') as file:
        file.seek(start)
        history = _history(file.read())
    if start:
        history.size += start
        history.last_chunk = (history.last_chunk[0] + start, history.last_chunk[1] + start)
        history.damages = [replace(one, start=one.start + start, stop=one.stop + start) for one in history.damages]
        for stream in history.streams:
            stream.start += start
    return history


def _history(data: bytes) -> History:
    history = History(len(data), is_marked=MARK in data or HEADER in data[:4096])
    # Whatever moved, doubled or mixed its chunks, a session is one stream, in the order in which it was written.
    sessions: dict[str, dict[int, Chunk]] = {}
    for found in scan(data):
        if isinstance(found, Chunk):
            sessions.setdefault(found.session, {}).setdefault(found.number, found)
            history.last_chunk = (found.start, found.stop)
            continue
        if found.stop - found.start < 16 and data[found.start : found.stop].lstrip(b'\0') == END_OF_STREAM:
            continue
        for piece in without_seals(data, found.start, found.stop):
            if isinstance(piece, Stream):
                history.streams.append(piece)
                history.last_chunk = (0, 0)
            else:
                _add(history.damages, piece)
    for chunks in sessions.values():
        ordered = [chunk for _, chunk in sorted(chunks.items())]
        history.streams.append(sealed_stream(data, ordered, history.damages))
    history.streams.sort(key=lambda stream: stream.start)
    history.damages.sort(key=lambda damage: damage.start)
    history.is_ended = data.endswith(END_OF_STREAM)
    return history


def _add(damages: list[Damage], found: Damage) -> None:
    if damages and damages[-1].stop == found.start and not damages[-1].is_torn:
        damages[-1] = replace(damages[-1], stop=found.stop)
    else:
        damages.append(found)
