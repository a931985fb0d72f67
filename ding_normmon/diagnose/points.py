"""The last points of every metric in one table, so that one call computes a statistic of hundreds of metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ['KEPT', 'RECENT', 'SPREAD_OF_MAD', 'Points', 'median', 'median_of_known', 'median_of_rows']

KEPT = 96
"""Number of points kept of each metric."""

RECENT = 4
"""Number of newest points that are compared with those before them."""

SPREAD_OF_MAD = 1.4826
"""Median absolute deviation times this is the standard deviation of normal data."""

Rows = npt.NDArray[np.intp]
Values = npt.NDArray[np.float64]


class Points:
    """The last :data:`KEPT` finite points of every metric.

    A point is one measurement, whatever the frequency of the metric. Points that are not finite are left out.

    Attributes:
        counts: int64, shape (M,): number of points of each metric so far.
        first: float64, shape (M,): first point of each metric.
        latest: int64, shape (M,): number of the record that holds the metric's last point; records count from 0.
        records: number of records so far.

    Example:
        >>> points = Points()
        >>> for iteration in range(3):
        ...     points.add(iteration, {'loss': 10.0 ** iteration})
        >>> points.row('loss'), points.last(np.array([0]), 2).tolist()
        (0, [[10.0, 100.0]])
    """

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._values: Values = np.full((0, KEPT), np.nan)
        self._iterations: npt.NDArray[np.int64] = np.zeros((0, KEPT), np.int64)
        self.counts: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self.first: Values = np.zeros(0)
        self.latest: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._frozen: dict[int, tuple[float, float]] = {}
        self.records = 0

    @property
    def names(self) -> Sequence[str]:
        """Every metric so far, in the order of rows."""
        return list(self._rows)

    def row(self, name: str) -> int | None:
        """Return the row of a metric; None if it has no point yet."""
        return self._rows.get(name)

    def add(self, iteration: int, scalars: Mapping[str, float]) -> None:
        """Add the points of one record."""
        finite = {name: value for name, value in scalars.items() if math.isfinite(value)}
        for name in finite:
            if name not in self._rows:
                self._rows[name] = len(self._rows)
        self._grow(len(self._rows))
        rows = np.fromiter((self._rows[name] for name in finite), np.intp, len(finite))
        for table in (self._values, self._iterations):
            table[rows, :-1] = table[rows, 1:]
        self._values[rows, -1] = np.fromiter(finite.values(), np.float64, len(finite))
        self._iterations[rows, -1] = iteration
        begun = self.counts[rows] == 0
        self.first[rows[begun]] = self._values[rows[begun], -1]
        self.counts[rows] += 1
        self.latest[rows] = self.records
        self.records += 1

    def _grow(self, metrics: int) -> None:
        missing = metrics - len(self._values)
        if missing > 0:
            self._values = np.concatenate([self._values, np.full((missing, KEPT), np.nan)])
            self._iterations = np.concatenate([self._iterations, np.zeros((missing, KEPT), np.int64)])
            self.counts = np.concatenate([self.counts, np.zeros(missing, np.int64)])
            self.first = np.concatenate([self.first, np.zeros(missing)])
            self.latest = np.concatenate([self.latest, np.full(missing, -1, np.int64)])

    def is_fresh(self, rows: Rows, age: int = 0) -> npt.NDArray[np.bool_]:
        """Return which metrics have a point in the newest record or in one of the ``age`` records before it."""
        return self.latest[rows] >= self.records - 1 - age

    def last(self, rows: Rows, number: int) -> Values:
        """Return the newest points, shape (len(rows), number), oldest first; NaN if there are fewer."""
        return self._values[rows, -number:]

    def iteration(self, row: int, back: int = 0) -> int:
        """Return the iteration of a metric's newest point, or of the one ``back`` points before it."""
        return int(self._iterations[row, -1 - min(back, KEPT - 1, int(self.counts[row]) - 1)])

    def shift(self, rows: Rows, baseline: int, floor: float) -> tuple[Values, Values]:
        """Compare the newest points with those before them, in logarithms.

        Arguments:
            rows: the metrics; each has at least RECENT + 8 points.
            baseline: number of points before the newest :data:`RECENT` that form the past; fewer if there are fewer.
            floor: smallest spread; a smaller one is replaced by it, because nearly constant points hide how they vary.

        Returns:
            The median of the logarithm of the newest points minus that of the past, and the spread of the past: 1.4826
            times the median absolute deviation. For a frozen metric, the past at the time of freezing is used.
        """
        window = np.log(np.maximum(self._values[rows, -(RECENT + baseline) :], 1e-30))
        recent, past = window[:, -RECENT:], window[:, :-RECENT]
        missing = np.isnan(past)
        if missing.any():
            # One call for all metrics with the same number of points.
            middle, spread = np.empty(len(rows)), np.empty(len(rows))
            for absent in np.unique(missing.sum(axis=1)):
                same = missing.sum(axis=1) == absent
                middle[same], spread[same] = _robust(past[same, absent:])
        else:
            middle, spread = _robust(past)
        if self._frozen:
            for index, row in enumerate(rows.tolist()):
                if row in self._frozen:
                    middle[index], spread[index] = self._frozen[row]
        return median_of_rows(recent) - middle, np.maximum(spread, floor)

    def freeze(self, names: Sequence[str], baseline: int, before: int) -> None:
        """Freeze the past of some metrics, so that a new level does not become part of it.

        Arguments:
            names: the metrics.
            baseline: number of points that form the past.
            before: number of newest points that are already at the new level.
        """
        for name in names:
            row = self._rows.get(name)
            if row is not None and row not in self._frozen:
                past = np.log(np.maximum(self._values[row, -(before + baseline) : -before], 1e-30))
                past = past[~np.isnan(past)]
                if past.size:
                    middle, spread = _robust(past[None])
                    self._frozen[row] = float(middle[0]), float(spread[0])

    def thaw(self, names: Sequence[str]) -> None:
        """Let the past of some metrics follow their points again."""
        for name in names:
            self._frozen.pop(self._rows.get(name, -1), None)


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


def median_of_known(values: Values) -> Values:
    """Return the median of each row, ignoring NaN, which come first; NaN if a row holds nothing else.

    Example:
        >>> median_of_known(np.array([[math.nan, 1.0, 2.0], [6.0, 4.0, 5.0]])).tolist()
        [1.5, 5.0]
    """
    missing = np.isnan(values).sum(axis=1)
    middle = np.full(len(values), math.nan)
    # One call for all rows with the same number of points: nanmedian costs ten times as much.
    for absent in set(missing.tolist()) - {values.shape[1]}:
        same = missing == absent
        middle[same] = median_of_rows(values[same, absent:])
    return middle


def _robust(values: Values) -> tuple[Values, Values]:
    middle = median_of_rows(values)
    return middle, SPREAD_OF_MAD * median_of_rows(np.abs(values - middle[:, None]))
