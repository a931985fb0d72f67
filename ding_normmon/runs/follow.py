"""Reads a growing run; each time only what is new."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from ding_normmon.core.incident import Incident
from ding_normmon.runs.plain_incident import joined
from ding_normmon.runs.read import read_run
from ding_normmon.runs.read_events import EventFiles
from ding_normmon.runs.read_history import damage_sentences, run_of
from ding_normmon.runs.run import MatrixSeries, Run, Series
from ding_normmon.runs.stream import History
from ding_normmon.runs.streams import read_streams

__all__ = ['FollowedRun']


class FollowedRun:
    """A run that is read again and again while it is written; each time only what is new is read.

    A file that was replaced or shortened, or that a new start of the run continues, is read from its beginning.

    Arguments:
        path: the folder of a run, or a file.

    Example:
        >>> import tempfile
        >>> from ding_normmon.core.record import Record
        >>> from ding_normmon.runs.history_file import HistoryFile
        >>> folder = Path(tempfile.mkdtemp())
        >>> file = HistoryFile(folder / 'history.arrows')
        >>> followed = FollowedRun(folder)
        >>> for iteration in (0, 5):
        ...     file.publish(Record(iteration, {'grad/model/_total_norm': 2.5}))
        ...     followed.read().series['grad/model/_total_norm'].iterations.tolist()
        [0]
        [0, 5]
        >>> file.close()
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._histories: dict[Path, _Read] = {}
        self._events = EventFiles()

    def read(self) -> Run:
        """Return the run as it is now.

        Raises:
            RunError: there is nothing to read, or nothing that can be read.
        """
        return read_run(self._path, self._history, self._events)

    def _history(self, path: Path) -> Run:
        known = self._histories.pop(path, None)
        now = (known and _read_on(path, known)) or _read_anew(path)
        self._histories[path] = now
        # Whoever gets the run may change its lists.
        run = now.run
        return replace(
            run,
            series=dict(run.series),
            matrices=dict(run.matrices),
            notes=list(run.notes),
            findings=list(run.findings),
            incidents=list(run.incidents),
            warnings=[*run.warnings, *now.torn],
        )


@dataclass(frozen=True)
class _Read:
    """A history file as far as it was read.

    Arguments:
        run: what it held.
        torn: a sentence on a last record that was not whole.
        identity: of the file.
        chunk: first byte of the last chunk, and the byte behind it.
        check: of that chunk's bytes, among which the name of its session is.
        session: of the last stream.
        number: of its last chunk.
        names: of its figures, by code.
        is_complete: whether nothing is missing: a file with damages is read anew.
    """

    run: Run
    torn: Sequence[str]
    identity: tuple[int, int]
    chunk: tuple[int, int]
    check: int
    session: str
    number: int
    names: list[str | None]
    is_complete: bool


def _read_anew(path: Path) -> _Read:
    identity = _identity(path)
    history = read_streams(path)
    run, torn = _without_torn(path, history)
    last = history.streams[-1] if history.streams else None
    return _Read(
        run,
        torn,
        identity,
        history.last_chunk,
        _check(path, history.last_chunk),
        last.session if last else '',
        last.chunks[1] if last else 0,
        last.names if last else [],
        last is not None and last.session != '' and history.last_chunk[1] > 0 and not _is_damaged(history),
    )


def _read_on(path: Path, known: _Read) -> _Read | None:
    """Return a file with what was added to it; None if it must be read from its beginning."""
    start = known.chunk[1]
    if not known.is_complete or _identity(path) != known.identity or path.stat().st_size < start:
        return None
    if _check(path, known.chunk) != known.check:
        return None
    history = read_streams(path, start)
    if history.size == start:
        return replace(known, torn=[])
    if _is_damaged(history) or len(history.streams) > 1:
        return None
    if not history.streams:
        _, torn = _without_torn(path, history)
        return replace(known, run=replace(known.run, is_ended=history.is_ended), torn=torn)
    [stream] = history.streams
    first, last = stream.chunks
    # As many chunks are missing before it as were read before, and none between them.
    if stream.session != known.session or first != known.number + 1 or stream.lost != first:
        return None
    stream.lost = 0
    names = [name if name is not None else old for name, old in _pairs(stream.names, known.names)]
    stream.names = names
    grown, torn = _without_torn(path, history)
    run = None if grown.warnings else _run_of_both(known.run, grown)
    if run is None:
        return None
    chunk = history.last_chunk
    return replace(known, run=run, torn=torn, chunk=chunk, check=_check(path, chunk), number=last, names=names)


def _pairs(new: list[str | None], old: list[str | None]) -> list[tuple[str | None, str | None]]:
    size = max(len(new), len(old))
    return list(zip(new + [None] * (size - len(new)), old + [None] * (size - len(old)), strict=True))


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _check(path: Path, chunk: tuple[int, int]) -> int:
    with path.open('rb') as file:
        file.seek(chunk[0])
        return zlib.crc32(file.read(chunk[1] - chunk[0]))


def _is_damaged(history: History) -> bool:
    return any(not damage.is_torn for damage in history.damages) or any(
        stream.odd or (stream.lost and stream.chunks[0] == 0) for stream in history.streams
    )


def _without_torn(path: Path, history: History) -> tuple[Run, list[str]]:
    """Return the run in a file, and a sentence on a last record that is still being written."""
    torn = [damage for damage in history.damages if damage.is_torn]
    history.damages = [damage for damage in history.damages if not damage.is_torn]
    return run_of(path, history), damage_sentences(path.name, History(damages=torn))


def _run_of_both(run: Run, grown: Run) -> Run | None:
    """Return a run with what was added; None where what was added does not simply follow."""
    series = _followed(run.series, grown.series, _follow_series)
    matrices = _followed(run.matrices, grown.matrices, _follow_matrices)
    if series is None or matrices is None:
        return None
    if run.notes and grown.notes and grown.notes[0].iteration <= run.notes[-1].iteration:
        return None
    findings = {(finding.key, finding.found): finding for finding in (*run.findings, *grown.findings)}
    incidents: dict[tuple[int, int], list[Incident]] = {}
    for incident in (*run.incidents, *grown.incidents):
        incidents.setdefault((incident.opened, incident.number), []).append(incident)
    return replace(
        run,
        series=series,
        matrices=matrices,
        notes=[*run.notes, *grown.notes],
        findings=list(findings.values()),
        incidents=[joined(parts) for _, parts in sorted(incidents.items())],
        is_ended=grown.is_ended,
    )


_Curve = TypeVar('_Curve', Series, MatrixSeries)


def _followed(
    old: dict[str, _Curve], new: dict[str, _Curve], follow: Callable[[_Curve, _Curve], _Curve | None]
) -> dict[str, _Curve] | None:
    found = dict(old)
    for name, curve in new.items():
        both = follow(old[name], curve) if name in old else curve
        if both is None:
            return None
        found[name] = both
    return found


def _follow_series(old: Series, new: Series) -> Series | None:
    if new.iterations[0] <= old.iterations[-1]:
        return None
    columns = zip((old.iterations, old.values, old.times), (new.iterations, new.values, new.times), strict=True)
    return Series(*(np.concatenate(parts) for parts in columns))


def _follow_matrices(old: MatrixSeries, new: MatrixSeries) -> MatrixSeries | None:
    if (old.rows, old.columns) != (new.rows, new.columns) or new.iterations[0] <= old.iterations[-1]:
        return None
    iterations, values = ([old.iterations, new.iterations], [old.values, new.values])
    return replace(new, iterations=np.concatenate(iterations), values=np.concatenate(values))
