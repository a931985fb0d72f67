"""Whether a run's files are whole, and a clean copy of what is."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ding_normmon.destinations.tensorboard.frames import read_frames
from ding_normmon.runs.format import Encoder
from ding_normmon.runs.header import Header
from ding_normmon.runs.read import histories_of
from ding_normmon.runs.read_events import event_files
from ding_normmon.runs.read_history import begins_at, damage_sentences, kept_until, run_of
from ding_normmon.runs.run import Run, RunError
from ding_normmon.runs.stream import History, Stream
from ding_normmon.runs.streams import read_streams

__all__ = ['Checked', 'check_run', 'repair']


@dataclass
class Checked:
    """The result of checking one file.

    Arguments:
        path: the file.
        facts: sentences on its contents.
        warnings: sentences on things worth knowing that are no damage.
        errors: sentences on damage.
    """

    path: Path
    facts: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def check_run(path: Path) -> list[Checked]:
    """Check the history files and event files of a run, or one of them.

    Raises:
        RunError: there are none.
    """
    if path.is_dir():
        histories = list(histories_of(path).values())
        events = event_files(path)
    else:
        histories = [[path]] if path.suffix == '.arrows' and path.is_file() else []
        events = [path] if 'tfevents' in path.name and path.is_file() else []
    if not histories + events:
        raise RunError(f'{path} holds neither a history file (history.arrows) nor event files: it is no run')
    found = []
    for of_folder in histories:
        for number, file in enumerate(of_folder):
            found.append(_history(file))
            if number:
                found[-1].warnings.append(
                    'another run wrote it while the first file was in use; readers of the folder leave it out'
                )
    return found + [_events(file) for file in events]


def _history(path: Path) -> Checked:
    history = read_streams(path)
    checked = Checked(path)
    if not history.is_ours:
        checked.errors.append(f'{path.name} is no history file, and nothing writes to it')
        return checked
    is_only_torn = all(damage.is_torn for damage in history.damages) and not any(
        stream.lost for stream in history.streams
    )
    sentences = damage_sentences(path.name, history)
    (checked.warnings if is_only_torn else checked.errors).extend(sentences)
    run = run_of(path, history)
    checked.warnings += [warning for warning in run.warnings if warning not in sentences]
    checked.facts.append(f'{history.size} bytes, {sum(stream.records for stream in history.streams)} records')
    for number, (stream, until) in enumerate(zip(history.streams, kept_until(history.streams), strict=True), 1):
        checked.facts.append(_told(number, stream, until))
    checked.facts += _gaps(run)
    for name, series in run.series.items():
        if name.startswith('monitor/lost/'):
            checked.warnings.append(
                f'the monitor counted {series.values.sum():g} x {name} in {len(series.values)} records'
            )
    return checked


def _told(number: int, stream: Stream, until: int) -> str:
    iterations = stream.rows.iterations
    begin = begins_at(stream)
    if not len(iterations):
        return f'start {number}: no records{"" if begin is None else f"; what is from {begin} on is replaced"}'
    when = time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(max(0.0, min(float(stream.rows.times[0]), 4e9))))
    replaced = int((iterations > until).sum())
    branch = f'; from {until + 1} on replaced by a later start ({replaced} rows)' if replaced else ''
    continues = '' if begin is not None else ', goes on where the one before was interrupted'
    return (
        f'start {number}: {when}, {stream.records} records of iterations {iterations.min()} to '
        f'{iterations.max()}{continues}{branch}'
    )


def _gaps(run: Run) -> list[str]:
    """Return where iterations are missing that the distance of the others makes expect."""
    cost = run.series.get('monitor/cost/ms') or max(run.series.values(), key=lambda one: len(one.values), default=None)
    if cost is None or len(cost.iterations) < 4:
        return []
    steps = np.diff(cost.iterations)
    wide = np.flatnonzero(steps > 1.5 * np.median(steps))
    told = [f'{cost.iterations[at]} to {cost.iterations[at + 1]}' for at in wide[:5].tolist()]
    return [f'{len(wide)} gaps between iterations: {", ".join(told)}{", ..." if len(wide) > 5 else ""}'] if told else []


def _events(path: Path) -> Checked:
    checked = Checked(path)
    frames = list(read_frames(path.read_bytes()))
    damaged = sum(not frame.is_intact and not frame.is_torn for frame in frames)
    checked.facts.append(f'{sum(frame.is_intact for frame in frames)} events')
    if damaged:
        checked.errors.append(f'{damaged} parts of {path.name} are damaged')
    if any(frame.is_torn for frame in frames):
        checked.warnings.append(f'{path.name} ends in the middle of an event')
    return checked


def repair(path: Path) -> tuple[Path, int]:
    """Write what is whole in a history file to a clean one beside it; return which, and how many records it has.

    Every start of the run is in it, also what later ones have replaced.

    Raises:
        RunError: nothing in it can be read.
        OSError: the copy cannot be written.
    """
    history = read_streams(path)
    copy = path.with_name(f'{path.stem}-repaired.arrows')
    if not any(stream.records for stream in history.streams):
        raise RunError(f'{path}: nothing in it can be read, so there is nothing to copy')
    records = 0
    with copy.open('xb') as file:
        try:
            for stream, header in zip(history.streams, _headers(history), strict=True):
                encoder = Encoder(replace(header, replaces_from=begins_at(stream)).plain())
                for data in _records(stream, encoder):
                    file.write(data)
                    records += 1
                file.write(encoder.end())
        except BaseException:
            copy.unlink()
            raise
    return copy, records


def _headers(history: History) -> Iterator[Header]:
    """Yield what is known of the run at each start; where that is lost, what was known before, or first."""
    known = next((stream.header for stream in history.streams if stream.header is not None), Header())
    for stream in history.streams:
        known = stream.header or known
        yield known


def _records(stream: Stream, encoder: Encoder) -> Iterator[bytes]:
    """Yield the bytes of every record of a stream."""
    rows = stream.rows
    # By their bits: a time may be NaN or infinite.
    times = rows.times.view(np.int64)
    places = np.flatnonzero((rows.iterations[1:] != rows.iterations[:-1]) | (times[1:] != times[:-1])) + 1
    for start, stop in itertools.pairwise([0, *places.tolist(), len(rows.iterations)]):
        chosen = [
            row
            for row in range(start, stop)
            if 0 <= rows.codes[row] < len(stream.names) and stream.names[rows.codes[row]] is not None
        ]
        if chosen:
            yield encoder.encode_rows(
                int(rows.iterations[start]),
                float(rows.times[start]),
                rows.kinds[chosen],
                [str(stream.names[rows.codes[row]]) for row in chosen],
                rows.values[chosen],
                [rows.texts.get(row) for row in chosen],
            )
