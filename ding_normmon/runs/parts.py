"""Matrices and findings from plain values that were read from a file, which may say anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from ding_normmon.core.finding import SEVERITIES, Finding
from ding_normmon.core.record import Matrix
from ding_normmon.runs.header import LARGEST_TASK
from ding_normmon.runs.run import MatrixSeries
from ding_normmon.runs.strict_json import number

__all__ = ['Doubts', 'finding_from', 'iteration_from', 'matrix_from', 'matrix_series']


class Doubts:
    """Counts what could not be understood, by a sentence without its number.

    Example:
        >>> doubts = Doubts()
        >>> doubts.add('rows have no name', 2)
        >>> doubts.add('rows have no name', 1)
        >>> doubts.sentences()
        ['3 rows have no name.']
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, what: str, amount: int) -> None:
        """Count so many more."""
        if amount:
            self._counts[what] += amount

    def sentences(self) -> list[str]:
        """Return one sentence each."""
        return [f'{amount} {what}.' for what, amount in self._counts.items()]


def iteration_from(value: Any) -> int:
    """Return an iteration, as a number of JSON.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 63:
        raise ValueError(f'{str(value)[:40]!r} is no iteration')
    return value


def finding_from(content: Any) -> tuple[Finding, str]:
    """Return a finding, and the severity that was written: one that this version does not know becomes a warning.

    Fields that are not known are left out.

    Raises:
        ValueError, TypeError, KeyError: it is no finding.

    Example:
        >>> content = {'rule': 'odd', 'severity': 'fatal', 'since': 3, 'found': 5, 'sentence': 'Odd.', 'new': 1}
        >>> finding_from(content)
        (Finding(rule='odd', severity='warning', since=3, found=5, sentence='Odd.', advice='', tasks=(), \
task_names=(), group=None, evidence={}, cleared=None, wording='', values={}), 'fatal')
    """
    said = str(content['severity'])
    group, cleared, tasks = content.get('group'), content.get('cleared'), content.get('tasks') or ()
    evidence, values = content.get('evidence') or {}, content.get('values') or {}
    if not isinstance(evidence, Mapping) or not isinstance(values, Mapping) or not isinstance(tasks, (list, tuple)):
        raise TypeError('the evidence or the tasks of a finding')
    finding = Finding(
        rule=str(content['rule']),
        severity=next((known for known in SEVERITIES if known == said), 'warning'),
        since=iteration_from(content['since']),
        found=iteration_from(content['found']),
        sentence=str(content['sentence']),
        advice=str(content.get('advice', '')),
        tasks=tuple(_task(task) for task in tasks),
        task_names=tuple(str(name) for name in content.get('task_names') or ()),
        group=None if group is None else str(group),
        evidence={str(name): number(value) for name, value in evidence.items()},
        cleared=None if cleared is None else iteration_from(cleared),
        wording=str(content.get('wording', '')),
        values={str(name): _value(value) for name, value in values.items()},
    )
    return finding, said


def _value(value: Any) -> float | str:
    return value if isinstance(value, str) else number(value)


def _task(value: Any) -> int:
    task = iteration_from(value)
    if not 0 <= task <= LARGEST_TASK:
        raise ValueError(f'{task} is no task id')
    return task


def matrix_from(content: Any) -> Matrix:
    """Return a matrix.

    Raises:
        ValueError, TypeError, KeyError: it is none.

    Example:
        >>> matrix_from({'values': [[1, 'NaN']], 'rows': [0], 'columns': [0, 'x'], 'labels': [[0, 'Pong']]}).columns
        (0, 'x')
    """
    rows, columns = (tuple(_place(entry) for entry in content[axis]) for axis in ('rows', 'columns'))
    values = content['values']
    if len(values) != len(rows) or any(len(row) != len(columns) for row in values):
        raise ValueError('a matrix that does not fit its axes')
    numbers = np.array([[number(value) for value in row] for row in values], np.float64)
    labels = {_place(key): str(label) for key, label in content.get('labels') or ()}
    return Matrix(numbers.reshape(len(rows), len(columns)), rows, columns, labels)


def _place(value: Any) -> int | str:
    return value if isinstance(value, str) else iteration_from(value)


def matrix_series(points: Mapping[int, Matrix]) -> MatrixSeries:
    """Return matrices of one name by iteration; where their axes have changed, those that are as the last one."""
    last = points[max(points)]
    same = {
        iteration: matrix
        for iteration, matrix in sorted(points.items())
        if (matrix.rows, matrix.columns) == (last.rows, last.columns)
    }
    values = np.array([matrix.values for matrix in same.values()], np.float64)
    shape = (len(same), len(last.rows), len(last.columns))
    return MatrixSeries(np.array(list(same), np.int64), values.reshape(shape), last.rows, last.columns, last.labels)
