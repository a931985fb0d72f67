"""Small tensors of one shape: one ``torch.stack`` into scratch and one batched product for many of them.

A call of ``torch.stack`` reads the tensors in C++ and checks that their shapes are equal, so that one look at the first
tensor checks all. What is left in Python is a few operations a stack instead of a few operations a tensor.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ding_normmon.squares.blocks import Array, Cut, cut, multiply, operands
from ding_normmon.squares.layout import check_numel

__all__ = ['FEWEST', 'MOST', 'Stacks']

MOST = 1 << 14
"""Elements of a tensor that is worth copying: a larger one costs more to copy than to look at where it lies."""

FEWEST = 2
"""Tensors of one shape that are worth a stack: the fixed cost of one is that of a few of the smallest."""

_SCRATCH = 1 << 17
"""Elements of one stack, at most: 512 KiB in float32, which many second-level caches hold until they are multiplied."""


class Stacks:
    """The tensors of one dtype that have enough others of their shape.

    Arguments:
        shapes: for each shape the indices of its tensors in the list, at least two.
        dtype: of the tensors.
        limit: elements of one dot product, at most.

    Attributes:
        indices: of the tensors, in the order in which :meth:`measure` writes their sums.
        scratch_bytes: memory held between calls.
    """

    def __init__(self, shapes: dict[torch.Size, list[int]], dtype: torch.dtype, limit: int) -> None:
        parts = [(shape, part) for shape, indices in shapes.items() for part in _parts(indices, shape.numel())]
        self.indices = [index for _, part in parts for index in part]
        largest = max(shape.numel() * len(part) for shape, part in parts)
        wide_dtype = dtype if dtype in (torch.float32, torch.float64) else torch.float32
        wide = torch.zeros(largest, dtype=wide_dtype)
        row = wide if wide_dtype == dtype else torch.zeros(largest, dtype=dtype)
        # Contiguous, since one tensor with another stride takes torch.stack off its fast path.
        zeros = torch.zeros(max(shape.numel() for shape in shapes), dtype=dtype)
        cuts = [cut(shape.numel(), limit) for shape, _ in parts]
        lengths = [how.sums for how, (_, part) in zip(cuts, parts, strict=True) for _ in part]
        self._starts = np.cumsum([0, *lengths[:-1]])
        self._partial: Array = np.zeros(sum(lengths), dtype=wide.numpy().dtype)
        self._stacks: list[_Stack] = []
        start = 0
        for how, (shape, part) in zip(cuts, parts, strict=True):
            stop = start + how.sums * len(part)
            self._stacks.append(_Stack(part, shape, row, wide, zeros, how, self._partial[start:stop]))
            start = stop
        self.scratch_bytes = wide.nbytes + zeros.nbytes + self._partial.nbytes + self._starts.nbytes
        self.scratch_bytes += 0 if row is wide else row.nbytes

    def measure(self, tensors: Sequence[Tensor | None], values: Array) -> None:
        """Write the sum of squares of each of these tensors of the whole list into ``values``."""
        for stack in self._stacks:
            stack.measure(tensors)
        np.add.reduceat(self._partial, self._starts, dtype=np.float64, out=values)


class _Stack:
    """Some tensors of one shape, and where they and their block sums go."""

    def __init__(
        self, indices: list[int], shape: torch.Size, row: Tensor, wide: Tensor, zeros: Tensor, how: Cut, partial: Array
    ) -> None:
        count, numel = len(indices), shape.numel()
        self._indices, self._shape = indices, shape
        self._take = itemgetter(*indices)
        self._laid = row[: count * numel].view(count, *shape)
        self._wide = wide[: count * numel].view(count, *shape)
        self._converted = row is not wide
        rows = self._wide.numpy().reshape(count, numel)
        self._operands = operands(rows, how, partial.reshape(count, how.sums))
        self._zeros = zeros[:numel].view(shape)

    def measure(self, tensors: Sequence[Tensor | None]) -> None:
        parts: tuple[Any, ...] = self._take(tensors)
        into = self._laid
        try:
            if parts[0].shape != self._shape:  # torch.stack compares the others with this one
                raise ValueError
            if self._converted and {part.dtype for part in parts} != {into.dtype}:  # it would round them
                into = self._wide
            torch.stack(parts, out=into)
        except (AttributeError, RuntimeError, TypeError, ValueError):  # None, or what is told apart here
            into = self._wide
            if any(part is not None for part in parts):
                torch.stack(self._mended(parts), out=into)
            else:
                into.zero_()
        if into is not self._wide:
            self._wide.copy_(into)
        multiply(self._operands)

    def _mended(self, parts: tuple[Any, ...]) -> list[Tensor]:
        """Zeros for None, dense tensors for sparse ones, this shape for another one with as many elements."""
        mended: list[Tensor] = []
        for index, part in zip(self._indices, parts, strict=True):
            if part is None:
                mended.append(self._zeros)
                continue
            if part.layout == torch.strided and part.shape == self._shape:
                mended.append(part)
                continue
            check_numel(index, part, self._shape.numel())
            mended.append((part if part.layout == torch.strided else part.to_dense()).reshape(self._shape))
        return mended


def _parts(indices: list[int], numel: int) -> list[list[int]]:
    """Share tensors of one shape evenly among as few stacks as hold them, but no stack of a single one.

    Example:
        >>> _parts([0, 1, 2, 3, 4, 5, 6], 1 << 15), _parts([0, 1, 2], 5)
        ([[0, 1, 2], [3, 4, 5, 6]], [[0, 1, 2]])
    """
    number = math.ceil(len(indices) * numel / _SCRATCH)
    number = max(1, min(number, len(indices) // 2))
    bounds = [len(indices) * part // number for part in range(number + 1)]
    return [indices[start:stop] for start, stop in itertools.pairwise(bounds)]
