"""Float32 dot products short enough to be exact: how long they may be, how a row is cut, how blocks multiply."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

__all__ = ['BLOCK', 'LOWEST', 'MOST_IN_FLOAT32', 'Array', 'Cut', 'cut', 'dot_limit', 'multiply', 'operands']

Array = np.ndarray[Any, np.dtype[Any]]

BLOCK = 1024
"""Squares of a large tensor that are added in float32 before float64 takes over."""

MOST_IN_FLOAT32 = 4096
"""Squares of a small tensor that are added in float32, at most; see :func:`dot_limit`."""

LOWEST = 2.0**-102
"""A float32 sum of n squares is free of underflow when it reaches n times this: 2^-126 (normal range) / 2^-24."""


@functools.cache
def dot_limit(tolerance: float = 1e-6) -> int:
    """The longest float32 dot product of this process's BLAS that keeps a norm within a relative tolerance.

    It is measured, once, on the worst kind of data, equal entries: the kernels of other processors have fewer lanes.

    Example:
        >>> BLOCK <= dot_limit() <= MOST_IN_FLOAT32
        True
    """
    length = MOST_IN_FLOAT32
    # Roots, as round numbers have short squares, which are added without any rounding.
    values = np.sqrt(np.linspace(1.01, 3.99, 100)).astype(np.float32)
    while length > BLOCK:
        rows = [np.full(length, value) for value in values]
        errors = [abs(float(row.dot(row)) / (length * float(row[0]) ** 2) - 1.0) for row in rows]
        if max(errors) < 2.0 * tolerance:  # of the square: twice that of its root
            break
        length //= 2
    return length


class Cut(NamedTuple):
    """How a row is cut: so many blocks of one length, and what they leave over as one shorter block."""

    length: int
    number: int
    tail: int

    @property
    def sums(self) -> int:
        """How many block sums there are."""
        return self.number + (self.tail > 0)


def cut(numel: int, limit: int) -> Cut:
    """One block for up to ``limit`` elements; blocks of about :data:`BLOCK` for more.

    A length that divides the row saves the tail, but short blocks cost more block sums.

    Example:
        >>> tuple(cut(4096, 4096)), tuple(cut(768 * 101, 4096)), tuple(cut(4099, 4096))
        ((4096, 1, 0), (808, 96, 0), (1024, 4, 3))
    """
    if numel <= limit:
        return Cut(numel, 1, 0)
    for length in range(BLOCK, BLOCK // 2 - 1, -1):
        if numel % length == 0:
            return Cut(length, numel // length, 0)
    return Cut(BLOCK, numel // BLOCK, numel % BLOCK)


def operands(rows: Array, how: Cut, out: Array) -> list[tuple[Array, Array, Array]]:
    """Views of equally long rows and of their block sums, as :func:`multiply` takes them.

    Arguments:
        rows: of shape (rows, elements).
        how: the cut of every row.
        out: of shape (rows, block sums) and the rows' dtype.
    """
    count, main = len(rows), how.length * how.number
    # A stack of (1, length) by (length, 1) products is one BLAS dot product a block, in one call.
    blocks = rows[:, :main].reshape(count, how.number, 1, how.length)
    products = out[:, : how.number].reshape(count, how.number, 1, 1)
    views = [(blocks, blocks.reshape(count, how.number, how.length, 1), products)]
    if how.tail:
        rest = rows[:, main:]
        views.append((rest[:, None, :], rest[:, :, None], out[:, how.number :, None]))
    return views


def multiply(views: list[tuple[Array, Array, Array]]) -> None:
    """Write the block sums.

    Example:
        >>> out = np.zeros((1, 5), np.float32)
        >>> multiply(operands(np.ones((1, 4099), np.float32), cut(4099, 4096), out))
        >>> out.tolist()
        [[1024.0, 1024.0, 1024.0, 1024.0, 3.0]]
    """
    for left, right, products in views:
        np.matmul(left, right, out=products)
