"""A run from its history file: what was measured last counts, and what was abandoned is not shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ding_normmon.core.figures import Figures
from ding_normmon.core.finding import SEVERITIES, Finding
from ding_normmon.runs.format import FINDING, INCIDENT, MATRIX, NOTE, SCALAR, VERSION
from ding_normmon.runs.parts import Doubts, finding_from, matrix_from, matrix_series
from ding_normmon.runs.plain_incident import IncidentReader
from ding_normmon.runs.run import Note, Run, Series
from ding_normmon.runs.stream import Damage, History, Stream
from ding_normmon.runs.streams import read_streams

__all__ = ['begins_at', 'damage_sentences', 'kept_until', 'read_history', 'run_of', 'series_of_rows']

_EVERY = np.iinfo(np.int64).max


def read_history(path: Path) -> Run:
    """Read what is whole in a history file; ``Run.warnings`` says what is not.

    Raises:
        OSError: the file cannot be read at all.
    """
    return run_of(path, read_streams(path))


def run_of(path: Path, history: History) -> Run:
    """Return the run that a history file holds, as it went on: without the records that a later start has replaced."""
    streams = history.streams
    headers = [stream.header for stream in streams if stream.header is not None]
    warnings = damage_sentences(path.name, history)
    newest = max((header.version for header in headers), default=0)
    if newest > VERSION:
        warnings.append(f'{path.name} was written by a newer version; what this one knows of it is read.')
    last = headers[-1] if headers else None
    run = Run(
        path,
        tasks=dict(last.tasks) if last else {},
        configuration=dict(last.configuration) if last else {},
        rules=last.rules if last else '',
        figures=last.figures if last else Figures(),
        warnings=warnings,
        is_ended=history.is_ended,
        about=dict(last.about) if last else {},
    )
    if not streams:
        return run
    index: dict[str, int] = {}
    doubts = Doubts()
    limits = kept_until(streams)
    columns = [_visible(stream, until, index, doubts) for stream, until in zip(streams, limits, strict=True)]
    kinds, codes, iterations, values, times = (
        np.concatenate(parts) for parts in zip(*(column for column, _ in columns), strict=True)
    )
    scalar = kinds == SCALAR
    names = list(index)
    run.series.update(series_of_rows(names, codes[scalar], iterations[scalar], values[scalar], times[scalar]))
    _add_texts(run, [text for _, texts in columns for text in texts], doubts)
    warnings.extend(f'{path.name}: {sentence}' for sentence in doubts.sentences())
    return run


def begins_at(stream: Stream) -> int | None:
    """Return the iteration from which on a stream replaces what earlier ones hold; None where it replaces nothing."""
    iterations = stream.rows.iterations
    first = int(iterations.min()) if len(iterations) else None
    if stream.header is not None and stream.header.version >= VERSION:
        return stream.header.replaces_from
    # Where nothing says so, it began where its first record is.
    return first


def kept_until(streams: Sequence[Stream]) -> list[int]:
    """Return, for each stream, the last iteration whose records no later one has replaced."""
    limits, limit = [], int(_EVERY)
    for stream in reversed(streams):
        limits.append(limit)
        begin = begins_at(stream)
        limit = limit if begin is None else min(limit, begin - 1)
    return limits[::-1]


def damage_sentences(name: str, history: History) -> list[str]:
    """Return what cannot be read of a history file, as sentences."""
    damages = [damage for damage in history.damages if damage.reason]
    sentences = [_sentence(name, damage) for damage in damages[:_SAID]]
    if len(damages) > _SAID:
        sentences.append(f'{name}: {len(damages) - _SAID} more parts cannot be read.')
    lost = sum(stream.lost for stream in history.streams)
    if lost:
        sentences.append(f'{name}: {lost} records are in the parts that cannot be read.')
    return sentences


_SAID = 5


def _sentence(name: str, damage: Damage) -> str:
    if damage.is_torn:
        return f'{name} ends in the middle of a record at byte {damage.start}; what is before is here.'
    where = f'bytes {damage.start} to {damage.stop} of {name}'
    return f'{where} cannot be read ({damage.reason}); what is before and behind is here.'


Columns = tuple[npt.NDArray[Any], ...]
Text = tuple[int, str, int, str]
"""Kind, name, iteration and text."""


def _visible(stream: Stream, until: int, index: dict[str, int], doubts: Doubts) -> tuple[Columns, list[Text]]:
    """Return kinds, codes of names over all streams, iterations, values and times of what is shown, and the texts."""
    rows = stream.rows
    doubts.add('rows lack a name, an iteration, a kind or a value', stream.odd)
    known = np.array([-1 if name is None else index.setdefault(name, len(index)) for name in stream.names], np.int64)
    # One place more, for codes that no name was ever said of.
    known = np.append(known, -1)
    inside = (rows.codes >= 0) & (rows.codes < len(stream.names))
    codes = known[np.where(inside, rows.codes, -1)]
    doubts.add('rows have a name that is lost', int((codes < 0).sum()))
    strange = ~np.isin(rows.kinds, (SCALAR, MATRIX, NOTE, FINDING, INCIDENT))
    doubts.add('rows are of a kind that this version does not know', int(strange.sum()))
    shown = (codes >= 0) & ~strange & (rows.iterations <= until)
    names = stream.names
    texts = [
        (int(rows.kinds[row]), str(names[rows.codes[row]]), int(rows.iterations[row]), text)
        for row, text in rows.texts.items()
        if shown[row]
    ]
    shown &= rows.kinds == SCALAR
    return (rows.kinds[shown], codes[shown], rows.iterations[shown], rows.values[shown], rows.times[shown]), texts


def _add_texts(run: Run, texts: list[Text], doubts: Doubts) -> None:
    matrices: dict[str, dict[int, Any]] = {}
    notes: dict[tuple[int, str], str] = {}
    findings: dict[tuple[Any, ...], Finding] = {}
    incidents = IncidentReader(doubts)
    for kind, name, iteration, text in texts:
        try:
            content = json.loads(text)
            if kind == MATRIX:
                matrices.setdefault(name, {})[iteration] = matrix_from(content)
            elif kind == NOTE:
                notes[iteration, name] = str(content)
            elif kind == INCIDENT:
                incidents.add(content)
            else:
                finding, severity = finding_from(content)
                findings[finding.key, finding.found] = finding
                if severity not in SEVERITIES:
                    doubts.add('findings are of a severity that this version does not know, and shown as warnings', 1)
        except (ValueError, TypeError, KeyError, RecursionError):
            doubts.add('matrices, notes or findings cannot be read', 1)
    run.matrices.update({name: matrix_series(points) for name, points in matrices.items()})
    run.notes.extend(Note(iteration, name, text) for (iteration, name), text in sorted(notes.items()))
    run.findings.extend(findings.values())
    run.incidents.extend(incidents.incidents())


_YEAR_10000 = 253402300800.0


def series_of_rows(
    names: list[str],
    codes: npt.NDArray[Any],
    iterations: npt.NDArray[Any],
    values: npt.NDArray[Any],
    times: npt.NDArray[Any],
) -> dict[str, Series]:
    """Return the points of each metric from rows in the order in which they were written; the last of two counts.

    A time that is NaN, infinite, or not between 1970 and 9999 becomes the nearest one that is; NaN becomes 1970.

    Example:
        >>> columns = (np.array([0, 1, 0, 0]), np.array([0, 0, 5, 0]), np.array([1.0, 2.0, 3.0, 4.0]), np.zeros(4))
        >>> {name: series.values.tolist() for name, series in series_of_rows(['a', 'b'], *columns).items()}
        {'a': [4.0, 3.0], 'b': [2.0]}
    """
    # Stable: of two rows of one iteration the later one stays behind.
    order = np.lexsort((iterations, codes))
    codes, iterations, values, times = codes[order], iterations[order], values[order], times[order]
    last = np.ones(len(codes), bool)
    last[:-1] = (codes[1:] != codes[:-1]) | (iterations[1:] != iterations[:-1])
    codes, iterations, values, times = codes[last], iterations[last], values[last], times[last]
    times = np.clip(np.nan_to_num(times, posinf=_YEAR_10000), 0.0, _YEAR_10000)
    edges = np.flatnonzero(np.diff(codes)) + 1
    starts = [0, *edges.tolist()] if len(codes) else []
    stops = [*starts[1:], len(codes)][: len(starts)]
    return {
        names[codes[start]]: Series(
            iterations[start:stop].astype(np.int64, copy=False),
            values[start:stop].astype(np.float64, copy=False),
            times[start:stop],
        )
        for start, stop in zip(starts, stops, strict=True)
    }
