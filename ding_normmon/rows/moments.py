"""Rows of mergeable raw moments, and the figures derived from them.

A **row** summarises a set of numbers by six float64 columns::

    count, mean, m2, minimum, maximum, nonfinite

``count`` is the number of finite entries, ``m2`` the sum of squared distances from ``mean``, ``nonfinite`` the number
of NaN and infinite entries (no other column includes them). Two rows merge into the row of the union, for any counts
and means. So tasks, ranks and gradient-accumulation steps can be merged in any order and grouping, and a standard
deviation over 26 tasks on 8 ranks is as exact as one over a single tensor.

Worked numbers: {1, 2, 3} is the row (3, 2, 2, 1, 3, 0); {10} is (1, 10, 0, 10, 10, 0). Together: count 4,
mean (3*2 + 1*10)/4 = 4, m2 = 2 + 0 + (10-2)^2 * 3*1/4 = 50, so the variance is 50/3, as for {1, 2, 3, 10}.

Source: Chan, Golub & LeVeque (1983), "Algorithms for Computing the Sample Variance", The American Statistician 37(3),
equation 2.1.

>>> row = merge(row_of(torch.tensor([1., 2., 3.])), row_of(torch.tensor([10.])))
>>> row.tolist()
[4.0, 4.0, 50.0, 1.0, 10.0, 0.0]
>>> round(std(row) ** 2, 6)
16.666667
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = [
    'EMPTY',
    'abs_maxima',
    'constant_numbers',
    'constant_row',
    'device_row_of',
    'merge',
    'merge_rows',
    'merge_sets',
    'norm',
    'norms',
    'rms',
    'row_of',
    'spread',
    'square_sum_row',
    'statistics',
    'std',
    'stds',
]

Row = npt.NDArray[np.float64]

COUNT, MEAN, M2, MINIMUM, MAXIMUM, NONFINITE = range(6)

EMPTY: Row = np.array([0.0, 0.0, 0.0, math.inf, -math.inf, 0.0])
"""The row of the empty set: the identity of :func:`merge`."""
EMPTY.setflags(write=False)

# A float64 copy of this many entries stays in a core's cache, and below 10,000 OpenBLAS starts no threads.
_BLOCK = 1 << 13


def constant_row(value: float) -> Row:
    """Return the row of one number; NaN and inf give an empty row with one non-finite entry.

    >>> constant_row(3.0).tolist()
    [1.0, 3.0, 0.0, 3.0, 3.0, 0.0]
    """
    return np.array(constant_numbers(float(value)))


def constant_numbers(value: float) -> tuple[float, float, float, float, float, float]:
    """Return the six numbers of :func:`constant_row` without creating an array.

    >>> constant_numbers(3.0)
    (1.0, 3.0, 0.0, 3.0, 3.0, 0.0)
    """
    if not math.isfinite(value):
        return 0.0, 0.0, 0.0, math.inf, -math.inf, 1.0
    return 1.0, value, 0.0, value, value, 0.0


def square_sum_row(count: float, square_sum: float, nonfinite: float = 0.0) -> Row:
    """Return a row made from just the count of some numbers and the sum of their squares.

    Its mean is set to 0 and its ``m2`` to the sum of squares. Merged rows of this kind give the exact :func:`norm` and
    :func:`rms`; their mean, std, minimum and maximum are meaningless and must not be read.

    >>> norm(merge(square_sum_row(2, 9.0), square_sum_row(1, 16.0)))
    5.0
    """
    return np.array([count, 0.0, square_sum, math.inf, -math.inf, nonfinite])


def row_of(values: Tensor | npt.NDArray[Any]) -> Row:
    """Return the row of all entries of a tensor on the CPU.

    Entries are converted to float64 in blocks, which are then merged, so that a mean of 1e6 with a standard deviation
    of 1e-2 keeps its digits.

    Arguments:
        values: any shape and strides, any real floating dtype; not changed.

    >>> row_of(torch.tensor([1., float('nan'), 3.])).tolist()
    [2.0, 2.0, 2.0, 1.0, 3.0, 1.0]
    """
    flat = (_array_of(values) if isinstance(values, Tensor) else values).reshape(-1)
    count = flat.size
    if count == 0:
        return EMPTY.copy()
    # One pass suffices because the shift is one of the numbers: its squared distance from the mean is then a part of
    # M2, so what cancels below is at most count times as large as what remains, and costs count * 2^-53 of it.
    shift, total, squares = float(flat[0]), 0.0, 0.0
    with np.errstate(over='ignore', invalid='ignore'):
        for start in range(0, count, _BLOCK):
            distances = flat[start : start + _BLOCK].astype(np.float64)
            distances -= shift
            total += float(np.add.reduce(distances))
            squares += float(np.dot(distances, distances))
    # One NaN or infinity makes the sum of squares NaN or infinite; only then the slow path is needed.
    if not squares < math.inf:
        return _careful_row(flat)
    average = total / count
    m2 = max(squares - total * average, 0.0)
    return np.array([count, shift + average, m2, np.minimum.reduce(flat), np.maximum.reduce(flat), 0.0])


def _array_of(values: Tensor) -> npt.NDArray[Any]:
    if values._is_zerotensor():
        # A tensor of zeros that was never written; copying it writes the zeros.
        values = values.clone()
    if values.is_floating_point() and values.dtype not in (torch.float32, torch.float64):
        values = values.float()
    return values.resolve_neg().numpy()


def _careful_row(flat: npt.NDArray[Any]) -> Row:
    numbers = flat.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    if finite.size == numbers.size:
        # Squares overflowed float64 although every entry is finite.
        return _scaled_row(numbers)
    row = row_of(finite)
    row[NONFINITE] = numbers.size - finite.size
    return row


def _scaled_row(numbers: npt.NDArray[np.float64]) -> Row:
    scale = float(np.abs(numbers).max())
    count, average, m2, _, _, nonfinite = row_of(numbers / scale).tolist()
    # One factor at a time: 0 * scale * scale is 0 where 0 * inf would be NaN.
    return np.array([count, average * scale, m2 * scale * scale, numbers.min(), numbers.max(), nonfinite])


def device_row_of(values: Tensor) -> Tensor:
    """Return the row of all entries of a tensor without leaving its device and without waiting for it.

    Arguments:
        values: any shape, real floating dtype, on any device.

    Returns:
        float64 tensor of shape (6,) on the same device.

    >>> device_row_of(torch.tensor([[1., 2.], [3., float('nan')]])).tolist()
    [3.0, 2.0, 2.0, 1.0, 3.0, 1.0]
    """
    numbers = values.to(torch.float64).reshape(-1)
    if not len(numbers):
        return torch.from_numpy(EMPTY.copy()).to(values.device)
    finite = torch.isfinite(numbers)
    count = finite.sum(dtype=torch.float64)
    average = torch.where(finite, numbers, 0.0).sum() / count.clamp(min=1)
    centred = torch.where(finite, numbers - average, 0.0)
    remainder = centred.sum()
    m2 = (centred * centred).sum() - remainder * remainder / count.clamp(min=1)
    minimum, maximum = (torch.where(finite, numbers, limit) for limit in (math.inf, -math.inf))
    average = average + remainder / count.clamp(min=1)
    return torch.stack([count, average, m2.clamp(min=0), minimum.amin(), maximum.amax(), len(numbers) - count])


def merge(first: Row, second: Row) -> Row:
    """Return the row of the union of two sets (Chan et al., equation 2.1)."""
    return merge_rows(np.stack([first, second]))


def merge_rows(rows: Row | Iterable[Row]) -> Row:
    r"""Return the row of the union of many sets.

    .. math:: n = \sum n_i,\quad \bar x = \sum \frac{n_i}{n} \bar x_i,\quad
              M_2 = \sum M_{2,i} + \sum n_i (\bar x_i - \bar x)^2

    Arguments:
        rows: float64, shape (N, 6), or an iterable of rows; N may be 0.
    """
    table = rows if isinstance(rows, np.ndarray) else np.array(list(rows), dtype=np.float64).reshape(-1, 6)
    return merge_sets(table, [len(table)])[0]


def merge_sets(table: Row, lengths: Sequence[int]) -> Row:
    """Merge consecutive sets of rows, each into one row; one call for all sets is much cheaper than one per set.

    Arguments:
        table: float64, shape (N, 6).
        lengths: number of rows of each set, at least 0; their sum is N.

    Returns:
        Shape (len(lengths), 6), each row as from :func:`merge_rows`.

    >>> merge_sets(np.array([constant_row(value) for value in (1.0, 5.0, 7.0)]), [2, 1])[:, :3].tolist()
    [[2.0, 3.0, 8.0], [1.0, 7.0, 0.0]]
    """
    kinds = set(lengths)
    if len(kinds) == 1 and 0 not in kinds:
        return _merge_along(table.reshape(len(lengths), lengths[0], 6))
    merged = np.tile(EMPTY, (len(lengths), 1))
    starts = np.cumsum([0, *lengths[:-1]])
    # One call per length: NumPy sums along an axis without releasing the interpreter lock, while ``reduceat`` releases
    # it at every call.
    for length in kinds - {0}:
        chosen = [index for index, entry in enumerate(lengths) if entry == length]
        merged[chosen] = _merge_along(table[starts[chosen][:, None] + np.arange(length)])
    return merged


def _merge_along(rows: Row) -> Row:
    """Merge rows (sets, length, 6) into (sets, 6)."""
    count, means = rows[..., COUNT], rows[..., MEAN]
    # The sums of mean, minimum and maximum are meaningless; they are overwritten below.
    merged: Row = np.add.reduce(rows, axis=1)
    weights = count / np.maximum(merged[:, COUNT], 1.0)[:, None]
    # The mean is computed twice: the second sum is over distances, so a common offset cancels before rounding.
    average = np.add.reduce(weights * means, axis=1)
    average += np.add.reduce(weights * (means - average[:, None]), axis=1)
    distance = means - average[:, None]
    with np.errstate(over='ignore'):
        # In this order an empty set, whose mean is 0, adds 0, however far its mean is from the others.
        merged[:, M2] += np.add.reduce(count * distance * distance, axis=1)
    merged[:, MEAN] = average
    np.minimum.reduce(rows[..., MINIMUM], axis=1, out=merged[:, MINIMUM])
    np.maximum.reduce(rows[..., MAXIMUM], axis=1, out=merged[:, MAXIMUM])
    return merged


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and unbiased standard deviation of at least one number; the latter is None for a single number.

    >>> spread([1.0, 3.0])
    (2.0, 1.4142135623730951)
    """
    average = math.fsum(values) / len(values)
    if len(values) < 2:
        return average, None
    return average, math.sqrt(math.fsum((value - average) ** 2 for value in values) / (len(values) - 1))


def std(row: Row) -> float:
    """Return the unbiased standard deviation (as ``torch.std``), NaN for fewer than two numbers.

    >>> round(std(row_of(torch.tensor([1., 3.]))) ** 2, 12)
    2.0
    """
    return float(stds(row))


def statistics(row: Row) -> Iterator[tuple[str, float]]:
    """Yield mean, max, min and std of a row, as far as it has enough numbers for them.

    >>> dict(statistics(row_of(torch.tensor([3.])))), dict(statistics(EMPTY))
    ({'mean': 3.0, 'max': 3.0, 'min': 3.0}, {})
    """
    if row[COUNT] > 0:
        yield 'mean', float(row[MEAN])
        yield 'max', float(row[MAXIMUM])
        yield 'min', float(row[MINIMUM])
    if row[COUNT] > 1:
        yield 'std', std(row)


def stds(rows: Row) -> Row:
    """Return :func:`std` of each of many rows, shape (..., 6) to (...)."""
    count = rows[..., COUNT]
    deviations: Row = np.where(count > 1, np.sqrt(rows[..., M2] / np.maximum(count - 1, 1)), math.nan)
    return deviations


def abs_maxima(rows: Row) -> Row:
    """Return the largest absolute value of each of many rows, shape (..., 6) to (...); NaN for an empty row."""
    largest = np.maximum(np.abs(rows[..., MINIMUM]), np.abs(rows[..., MAXIMUM]))
    maxima: Row = np.where(rows[..., COUNT] > 0, largest, math.nan)
    return maxima


def norm(row: Row) -> float:
    r"""Return the L2 norm of all numbers of the row: :math:`\sqrt{M_2 + n \bar x^2}`."""
    return float(norms(row))


def norms(rows: Row) -> Row:
    """Return :func:`norm` of each of many rows, shape (..., 6) to (...).

    >>> norms(np.stack([constant_row(3.0), EMPTY])).tolist()
    [3.0, 0.0]
    """
    with np.errstate(over='ignore'):
        lengths: Row = np.hypot(np.sqrt(rows[..., M2]), np.sqrt(rows[..., COUNT]) * rows[..., MEAN])
    return lengths


def rms(row: Row) -> float:
    """Return the root mean square, NaN for an empty row."""
    return norm(row) / math.sqrt(row[COUNT]) if row[COUNT] > 0 else math.nan
