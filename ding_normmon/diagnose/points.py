"""The last points of every metric in one table, so that one call computes a statistic of hundreds of metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

__all__ = ['KEPT', 'Points', 'median', 'median_of_rows']

KEPT = 64
"""Number of points kept of each metric."""

_LARGEST = 1e150
"""What is larger counts as this: its square and its ratio to anything are still numbers."""

Rows = npt.NDArray[np.intp]
Values = npt.NDArray[np.float64]


class Points:
    """The last :data:`KEPT` finite points of every metric.

    A point is one measurement, whatever the frequency of the metric. Points that are not finite are left out.

    Attributes:
        names: every metric so far, in the order of rows.
        counts: int64, shape (M,): number of points of each metric so far.
        latest: int64, shape (M,): number of the record that holds the metric's last point; records count from 0.
        records: number of records so far.

    Example:
        >>> points = Points()
        >>> for iteration in range(3):
        ...     _ = points.add({'loss': 10.0 ** iteration})
        >>> points.row('loss'), points.last(np.array([0]), 2).tolist()
        (0, [[10.0, 100.0]])
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._rows: dict[str, int] = {}
        self._values: Values = np.full((0, KEPT), np.nan)
        self.counts: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self.latest: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self.records = 0

    def row(self, name: str) -> int | None:
        """Return the row of a metric; None if it has no point yet."""
        return self._rows.get(name)

    def add(self, scalars: Mapping[str, float]) -> tuple[Rows, Values]:
        """Add the points of one record; return the rows of those that are finite, and their values."""
        if not scalars.keys() <= self._rows.keys():
            for name, value in scalars.items():
                if name not in self._rows and math.isfinite(value):
                    self._rows[name] = len(self.names)
                    self.names.append(name)
            self._grow(len(self.names))
        rows = np.array([self._rows.get(name, -1) for name in scalars], np.intp)
        values = np.fromiter(scalars.values(), np.float64, len(scalars))
        finite = np.isfinite(values)
        if not finite.all():
            rows, values = rows[finite], values[finite]
        np.clip(values, -_LARGEST, _LARGEST, out=values)
        self._values[rows, self.counts[rows] % KEPT] = values
        self.counts[rows] += 1
        self.latest[rows] = self.records
        self.records += 1
        return rows, values

    def _grow(self, metrics: int) -> None:
        missing = metrics - len(self._values)
        self._values = np.concatenate([self._values, np.full((missing, KEPT), np.nan)])
        self.counts = np.concatenate([self.counts, np.zeros(missing, np.int64)])
        self.latest = np.concatenate([self.latest, np.full(missing, -1, np.int64)])

    def is_fresh(self, rows: Rows, age: int = 0) -> npt.NDArray[np.bool_]:
        """Return which metrics have a point in the newest record or in one of the ``age`` records before it."""
        return self.latest[rows] >= self.records - 1 - age

    def last(self, rows: Rows, number: int) -> Values:
        """Return the newest points, shape (len(rows), number), oldest first; NaN if there are fewer."""
        columns = (self.counts[rows][:, None] - number + np.arange(number)) % KEPT
        return self._values[rows[:, None], columns]


def median_of_rows(values: Values) -> Values:
    """Return the median of each row; much faster than NumPy's for few values without NaN.

    Example:
        >>> median_of_rows(np.array([[3.0, 1.0, 2.0], [6.0, 4.0, 5.0]])).tolist()
        [2.0, 5.0]
    """
    low, high = (values.shape[1] - 1) // 2, values.shape[1] // 2
    ordered = values.copy()
    ordered.partition((low, high), axis=1)
    middle: Values = (ordered[:, low] + ordered[:, high]) / 2
    return middle


def median(values: Values) -> float:
    """Return the median of at least one number.

    Example:
        >>> median(np.array([3.0, 1.0, 2.0]))
        2.0
    """
    return float(median_of_rows(values[None])[0])
