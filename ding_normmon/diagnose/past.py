"""What a figure was like: the points that are taken for normal, and how they vary."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ['FEWEST', 'Past', 'Rows', 'Values', 'transformed']

FEWEST = 3
"""Points without which there is no past."""

SPREAD_OF_MAD = 1.4826
"""Median absolute deviation times this is the standard deviation of normal data."""

SPREAD_OF_RANGE = 0.2
"""Range of a few dozen points times this is about their standard deviation; more than that if they have outliers."""

_TAIL, SPREAD_OF_MIDDLE = 0.15, 0.48
"""Range of what is left without so much on either side, times this, is the standard deviation of normal data."""

Rows = npt.NDArray[np.intp]
Values = npt.NDArray[np.float64]


def transformed(values: Values, zero: Values) -> Values:
    """Return asinh(value / zero): the logarithm of sizes above ``zero``, with a sign, and linear below.

    Arguments:
        values: shape (M, ...).
        zero: shape (M,); where it is 0, the values are returned as they are.

    Example:
        >>> transformed(np.array([[10.0], [-10.0], [0.2]]), np.array([1.0, 1.0, 0.0])).round(2).tolist()
        [[3.0], [-3.0], [0.2]]
    """
    scale = np.where(zero > 0, zero, 1.0).reshape(-1, *[1] * (values.ndim - 1))
    changed: Values = np.where(zero.reshape(scale.shape) > 0, np.arcsinh(values / scale), values)
    return changed


class Past:
    """Points of many figures: the newest ones, or as many spread evenly over the whole run.

    Arguments:
        length: number of points kept of each figure.
        whole: keep points of the whole run; when there are too many, every other one is dropped.

    Attributes:
        counts: int64, shape (M,): number of points kept.

    Example:
        >>> past = Past(4, whole=True)
        >>> past.grow(1)
        >>> for value in range(8):
        ...     past.add(np.array([0]), np.array([float(value)]))
        >>> past.describe(np.array([0]), np.zeros(1), np.array([False]))[0].tolist()
        [2.0]
    """

    def __init__(self, length: int, whole: bool = False) -> None:
        self._length, self._whole = length, whole
        self._values: Values = np.full((0, length), np.nan)
        self.counts = np.zeros(0, np.int64)
        self._seen = np.zeros(0, np.int64)
        self._stride = np.zeros(0, np.int64)

    def grow(self, rows: int) -> None:
        """Make room for more figures."""
        more = rows - len(self.counts)
        self._values = np.concatenate([self._values, np.full((more, self._length), np.nan)])
        self.counts, self._seen = (np.concatenate([old, np.zeros(more, np.int64)]) for old in (self.counts, self._seen))
        self._stride = np.concatenate([self._stride, np.ones(more, np.int64)])

    def add(self, rows: Rows, values: Values) -> None:
        """Add one point to each of some figures."""
        seen = self._seen[rows]
        self._seen[rows] += 1
        if not self._whole:
            self._values[rows, seen % self._length] = values
            self.counts[rows] = np.minimum(seen + 1, self._length)
            return
        taken = seen % self._stride[rows] == 0
        rows, values = rows[taken], values[taken]
        self._values[rows, self.counts[rows]] = values
        self.counts[rows] += 1
        full = rows[self.counts[rows] == self._length]
        if full.size:
            half = self._length // 2
            self._values[full, :half] = self._values[full, ::2]
            self._values[full, half:] = np.nan
            self.counts[full] = half
            self._stride[full] *= 2

    def forget(self, rows: Rows) -> None:
        """Drop everything that is known of some figures."""
        self._values[rows] = np.nan
        self.counts[rows] = self._seen[rows] = 0
        self._stride[rows] = 1

    def largest(self, rows: Rows) -> Values:
        """Return the largest absolute value of figures that have points."""
        largest: Values = np.nanmax(np.abs(self._values[rows]), axis=1)
        return largest

    def describe(
        self, rows: Rows, zero: Values, sparse: npt.NDArray[np.bool_]
    ) -> tuple[Values, Values, Values, Values]:
        """Return median, robust standard deviation, minimum and maximum of figures that have points, all transformed.

        The spread is the larger of 1.48 times the median absolute deviation and what the middle 70% tell.

        Arguments:
            rows: the figures.
            zero: shape (len(rows),): what counts as 0 for each.
            sparse: shape (len(rows),): figures of which single points count, such as rare rewards; their spread is also
                at least a fifth of the range.
        """
        counts = self.counts[rows]
        kept = int(counts.max(initial=1))
        # NaN, where there is no point yet, is sorted to the end.
        points = np.sort(transformed(self._values[rows, :kept], zero), axis=1)
        middle = _middle(points, counts)
        apart = _middle(np.sort(np.abs(points - middle[:, None]), axis=1), counts)
        each, tail = np.arange(len(rows)), (_TAIL * counts).astype(np.intp)
        width = SPREAD_OF_MIDDLE * (points[each, counts - 1 - tail] - points[each, tail])
        whole = np.where(sparse, SPREAD_OF_RANGE * (points[each, counts - 1] - points[:, 0]), 0.0)
        spread = np.maximum(np.maximum(SPREAD_OF_MAD * apart, width), whole)
        return middle, spread, points[:, 0], points[each, counts - 1]

    def lately(self, rows: Rows, zero: Values) -> tuple[Values, Values, Values]:
        """Return the median of the newest three points, how much two neighbours usually differ, and how far a figure
        has fallen or risen at least over three points, all transformed.

        Of figures that training moves all the time only this tells what one step may change.

        Arguments:
            rows: the figures; they have at least three points, and the newest ones are kept.
            zero: shape (len(rows),): what counts as 0 for each.
        """
        counts, seen = self.counts[rows], self._seen[rows]
        kept = int(counts.max(initial=1))
        columns = (seen[:, None] - kept + np.arange(kept)) % self._length
        points = transformed(self._values[rows[:, None], columns], zero)
        steps = np.sort(np.abs(np.diff(points, axis=1)), axis=1)
        least = np.nanmin(points[:, 3:] - points[:, :-3], axis=1, initial=0.0)
        return np.median(points[:, -3:], axis=1), SPREAD_OF_MAD * _middle(steps, counts - 1), least


def _middle(ordered: Values, counts: npt.NDArray[np.int64]) -> Values:
    rows = np.arange(len(ordered))
    middle: Values = (ordered[rows, (counts - 1) // 2] + ordered[rows, counts // 2]) / 2
    return middle
