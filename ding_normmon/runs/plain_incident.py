"""An incident as plain values, and back from values that may say anything."""

from __future__ import annotations

import base64
import dataclasses
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ding_normmon.core.incident import STAGES, DenseWindow, Departure, Incident
from ding_normmon.runs.parts import Doubts, iteration_from
from ding_normmon.runs.strict_json import number

__all__ = ['IncidentReader', 'incident_from', 'joined', 'plain_incident', 'plain_window', 'window_from']

_MOST_CELLS = 1 << 20
"""Numbers of one window; a monitor writes half as many at most."""

_MOST_CELLS_IN_ALL = 1 << 25
"""Numbers of all windows of a run: compressed, they fit into a few bytes."""


def plain_incident(incident: Incident) -> dict[str, Any]:
    """Return an incident as values that JSON can hold; the numbers of its window are compressed.

    Example:
        >>> window = DenseWindow(('loss',), np.array([8, 16]), np.array([[1.0], [math.nan]]))
        >>> incident = Incident(1, 16, 16, 'finding', 'Odd.', window=window)
        >>> incident_from(plain_incident(incident)) == incident
        True
        >>> incident_from(plain_incident(incident)).window.iterations.tolist()
        [8, 16]
    """
    plain = {
        field.name: getattr(incident, field.name) for field in dataclasses.fields(incident) if field.name != 'window'
    }
    plain['first'] = [dataclasses.astuple(departure) for departure in incident.first]
    plain['figures'] = dict(incident.figures)
    return {**plain, 'window': plain_window(incident.window)}


def plain_window(window: DenseWindow) -> dict[str, Any]:
    """Return a window as values that JSON can hold: float64, little-endian, compressed by zlib, in base64."""
    values = np.ascontiguousarray(window.values, '<f8').tobytes()
    return {
        'names': list(window.names),
        'iterations': window.iterations.tolist(),
        'values': base64.b64encode(zlib.compress(values, 1)).decode(),
    }


class IncidentReader:
    """Takes the incidents of a run as they were written, and joins the parts of each.

    Arguments:
        doubts: counts what cannot be read.

    Example:
        >>> reader = IncidentReader(Doubts())
        >>> for content in (plain_incident(Incident(1, 8, 8, 'finding', 'Odd.')), 'nonsense'):
        ...     reader.add(content)
        >>> [incident.reason for incident in reader.incidents()], reader.doubts.sentences()
        (['Odd.'], ['1 incidents cannot be read.'])
    """

    def __init__(self, doubts: Doubts) -> None:
        self.doubts = doubts
        self._parts: dict[tuple[int, int], list[Incident]] = {}
        self._cells = 0

    def add(self, content: Any) -> None:
        """Take one part of one incident."""
        try:
            incident = incident_from(content)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            self.doubts.add('incidents cannot be read', 1)
            return
        self._cells += incident.window.values.size
        if self._cells > _MOST_CELLS_IN_ALL:
            self.doubts.add('incidents are told without the steps around them, which are too many', 1)
            incident = dataclasses.replace(incident, window=DenseWindow())
        self._parts.setdefault((incident.opened, incident.number), []).append(incident)

    def incidents(self) -> list[Incident]:
        """Return the incidents, in the order in which they were opened."""
        return [joined(parts) for _, parts in sorted(self._parts.items())]


def incident_from(content: Any) -> Incident:
    """Return an incident.

    Raises:
        ValueError, TypeError, KeyError: it is none.
    """
    task = content.get('task')
    figures = content.get('figures') or {}
    if not isinstance(figures, Mapping):
        raise TypeError('the figures of an incident')
    return Incident(
        number=iteration_from(content['number']),
        opened=iteration_from(content['opened']),
        since=iteration_from(content['since']),
        kind=str(content['kind'])[:40],
        reason=str(content['reason']),
        first=tuple(_departure(entry) for entry in content.get('first') or ()),
        task=None if task is None else iteration_from(task),
        task_name=str(content.get('task_name') or ''),
        group=str(content.get('group') or ''),
        parameter=str(content.get('parameter') or ''),
        figures={str(name): number(value) for name, value in figures.items()},
        every=iteration_from(content.get('every') or 0),
        window=window_from(content['window']) if content.get('window') else DenseWindow(),
    )


def _departure(entry: Any) -> Departure:
    iteration, stage, metric, task, *numbers = entry
    value, usual, ratio = (number(each) for each in numbers)
    stage = next((known for known in STAGES if known == stage), STAGES[0])
    of_task = None if task is None else iteration_from(task)
    return Departure(iteration_from(iteration), stage, str(metric), of_task, value, usual, ratio)


def window_from(content: Any) -> DenseWindow:
    """Return a window.

    Raises:
        ValueError, TypeError, KeyError: it is none.
    """
    names = tuple(str(name) for name in content['names'])
    iterations = np.array([iteration_from(entry) for entry in content['iterations']], np.int64)
    cells = len(names) * len(iterations)
    if cells > _MOST_CELLS or (np.diff(iterations) <= 0).any():
        raise ValueError('a window that is too large or out of order')
    try:
        decompressor = zlib.decompressobj()
        data = decompressor.decompress(base64.b64decode(str(content['values']), validate=True), 8 * cells + 1)
    except zlib.error as error:
        raise ValueError(f'the values of a window ({error})') from error
    if len(data) != 8 * cells:
        raise ValueError('a window that does not fit its names and iterations')
    values = np.frombuffer(data, '<f8').reshape(len(iterations), len(names)).astype(np.float64)
    return DenseWindow(names, iterations, values)


def joined(parts: Sequence[Incident]) -> Incident:
    """Return what was written of one incident, when it opened and when it was complete, as one.

    Example:
        >>> windows = [DenseWindow((name,), np.array([at]), np.array([[1.0]])) for name, at in (('a', 8), ('b', 16))]
        >>> found = joined([Incident(1, 8, 8, 'finding', 'Odd.', window=window) for window in windows])
        >>> found.window.names, found.window.iterations.tolist()
        (('a', 'b'), [8, 16])
    """
    index: dict[str, int] = {}
    for part in parts:
        for name in part.window.names:
            index.setdefault(name, len(index))
    rows: dict[int, Any] = {}
    for part in parts:
        places = [index[name] for name in part.window.names]
        for iteration, values in zip(part.window.iterations.tolist(), part.window.values, strict=True):
            row = rows.setdefault(iteration, np.full(len(index), math.nan))
            row[places] = values
        if len(rows) * len(index) > 4 * _MOST_CELLS:
            # No two parts of one incident are so different.
            return parts[-1]
    iterations = sorted(rows)
    values = np.array([rows[iteration] for iteration in iterations]).reshape(len(iterations), len(index))
    window = DenseWindow(tuple(index), np.array(iterations, np.int64), values)
    return dataclasses.replace(parts[-1], window=window)
