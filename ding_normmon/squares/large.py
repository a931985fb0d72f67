"""Large float32 tensors: blocks multiplied where they lie, shared with helper threads where there is much to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ding_normmon.squares.blocks import Array, Cut, cut, multiply, operands
from ding_normmon.squares.careful import converted_sum_of_squares
from ding_normmon.squares.layout import check_numel, dense_flat

__all__ = ['LargeTensors']

_THREADED = 1 << 23
"""From this many elements on, as many threads as torch uses share them."""

_MOST_THREADS = 8
"""Memory is the limit: more threads than this only queue for the interpreter lock."""


class _Place(NamedTuple):
    """How a tensor is cut, and where its block sums go."""

    how: Cut
    start: int
    stop: int


class LargeTensors:
    """The float32 tensors of a list that are measured one by one.

    Arguments:
        indices: of these tensors in the list.
        numels: numbers of elements of the whole list.
        limit: elements of one dot product, at most.
    """

    def __init__(self, indices: list[int], numels: Sequence[int], limit: int) -> None:
        self.indices = indices
        self._numels = [numels[index] for index in indices]
        self._places: list[_Place] = []
        stop = 0
        for numel in self._numels:
            how = cut(numel, limit)
            self._places.append(_Place(how, start := stop, stop := start + how.sums))
        self._starts = np.array([place.start for place in self._places], dtype=np.intp)
        self._partial: Array = np.zeros(stop, dtype=np.float32)
        self._threaded = sum(self._numels) >= _THREADED
        self._helpers: ThreadPoolExecutor | None = None
        self.scratch_bytes = self._partial.nbytes + self._starts.nbytes

    def measure(self, tensors: Sequence[Tensor | None], values: Array) -> None:
        """Write the sum of squares of each of these tensors of the whole list into ``values``."""
        partial = self._partial
        work: list[tuple[Array, _Place]] = []
        for index, numel, place in zip(self.indices, self._numels, self._places, strict=True):
            tensor = tensors[index]
            row = None if tensor is None else _row(index, tensor, numel)
            if row is not None:
                work.append((row, place))
                continue
            partial[place.start : place.stop] = 0.0
            if tensor is not None:
                # One block sum stands for the whole tensor: rare, and exact to float32's last digit.
                partial[place.start] = converted_sum_of_squares(tensor, torch.empty(0))
        # Taking the next item of a list's iterator is atomic: whoever is free takes it. A helper that the machine
        # has no core for costs nothing, where a barrier per tensor would wait for it hundreds of times.
        queue = iter(work)
        helpers = self._start_helpers(queue)
        _empty(queue, partial)
        for helper in helpers:
            if not helper.cancel():
                helper.result()
        np.add.reduceat(partial, self._starts, dtype=np.float64, out=values)

    def _start_helpers(self, queue: Iterator[tuple[Array, _Place]]) -> list[Future[None]]:
        count = min(torch.get_num_threads(), _MOST_THREADS) - 1
        if count < 1 or not self._threaded:
            return []
        if self._helpers is None:
            self._helpers = ThreadPoolExecutor(_MOST_THREADS - 1, thread_name_prefix='ding_normmon-squares')
        return [self._helpers.submit(_empty, queue, self._partial) for _ in range(count)]


def _empty(queue: Iterator[tuple[Array, _Place]], partial: Array) -> None:
    """Multiply the rows in a queue, which other threads may be emptying too."""
    with np.errstate(all='ignore'):
        for row, (how, start, stop) in queue:
            multiply(operands(row.reshape(1, -1), how, partial[start:stop].reshape(1, -1)))


def _row(index: int, tensor: Tensor, numel: int) -> Array | None:
    """A NumPy row on a tensor's memory, or None where it needs a conversion or has gaps."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    try:
        view = tensor.numpy()
    except (RuntimeError, TypeError):
        pass
    else:
        if view.nbytes == 4 * numel and view.dtype == np.float32 and view.flags.c_contiguous:
            return view.reshape(-1)
    check_numel(index, tensor, numel)
    if tensor.dtype != torch.float32 or tensor.layout != torch.strided:
        return None
    flat = dense_flat(tensor)
    return None if flat is None else flat.numpy()
