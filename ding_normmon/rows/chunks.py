"""Cuts lists of tensors into chunks of bounded size, which are worked on one after another."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ['Piece', 'cut']

Piece = tuple[int, int, int]
"""Which tensor, its first element, and one past its last."""


def cut(lengths: Sequence[int], capacity: int, row: int = 1) -> list[list[Piece]]:
    """Return the pieces of each chunk, in order.

    Arguments:
        lengths: number of elements of each tensor.
        capacity: rows of a chunk.
        row: elements of a row; every piece begins on a row of its own.

    >>> cut([5, 1, 9], capacity=4, row=2)
    [[(0, 0, 5), (1, 0, 1)], [(2, 0, 8)], [(2, 8, 9)]]
    """
    chunks: list[list[Piece]] = []
    free = 0
    for index, length in enumerate(lengths):
        first = 0
        while first < length:
            if not free:
                chunks.append([])
                free = capacity
            last = min(length, first + free * row)
            chunks[-1].append((index, first, last))
            free -= -(-(last - first) // row)
            first = last
    return chunks
