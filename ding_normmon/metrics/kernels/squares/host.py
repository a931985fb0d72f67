"""Sums of squares on a CPU: all plain tensors in one call into C, the others one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from ding_normmon.metrics.kernels import native
from ding_normmon.metrics.kernels.squares.careful import sum_of_squares
from ding_normmon.metrics.kernels.squares.layout import check_numel

__all__ = ['HostSums']

_SMALL = 1 << 14
"""Up to so many elements torch's norm in float64, all tensors in one call, is faster than blocks of each tensor."""

_THREADED = 1 << 23
"""From this many elements on, as many threads as torch uses share them."""

_SHARE = 1 << 20
"""Elements that a thread takes at a time, at least."""

_MOST_THREADS = 8
"""Memory is the limit: more threads than this bring nothing."""


class HostSums:
    """Sums of squares of the tensors of a list on a CPU.

    Arguments:
        templates: tensors with the shapes to come.
    """

    scratch_bytes = 0

    def __init__(self, templates: Sequence[Tensor]) -> None:
        self._numels = [template.numel() for template in templates]
        self._shares = list(_shares(self._numels)) if sum(self._numels) >= _THREADED else []
        self._helpers: ThreadPoolExecutor | None = None

    def measure(self, tensors: Sequence[Tensor | None], sums: Tensor, nonfinite: Tensor) -> None:
        """Write the sum of squares and the number of non-finite entries of each tensor."""
        left = self._measure_plain(list(tensors), sums, nonfinite)
        if not left:
            return
        with torch.no_grad():
            for index in left:
                tensor = tensors[index]
                total, bad = 0.0, 0
                if tensor is not None:
                    check_numel(index, tensor, self._numels[index])
                    total, bad = sum_of_squares(tensor)
                sums[index], nonfinite[index] = total, bad

    def _measure_plain(self, tensors: list[Tensor | None], sums: Tensor, nonfinite: Tensor) -> Sequence[int]:
        """Measure in C and return the indices of the tensors that are left."""
        kernels, count = native.kernels, len(tensors)
        if kernels is None or not count:
            return self._measure_small(tensors, sums, nonfinite)
        threads = min(torch.get_num_threads(), _MOST_THREADS) if self._shares else 1
        if threads < 2:
            left: list[int] = kernels.squares(tensors, self._numels, sums, nonfinite, 0, count)
            return left
        # Taking the next item of a list's iterator is atomic, so any free thread takes it.
        queue = iter(self._shares)
        left = []

        def work() -> None:
            for start, stop in queue:
                left.extend(kernels.squares(tensors, self._numels, sums, nonfinite, start, stop))

        if self._helpers is None:
            self._helpers = ThreadPoolExecutor(_MOST_THREADS - 1, thread_name_prefix='ding_normmon-squares')
        helpers = [self._helpers.submit(work) for _ in range(threads - 1)]
        work()
        for helper in helpers:
            if not helper.cancel():
                helper.result()
        return sorted(left)

    def _measure_small(self, tensors: list[Tensor | None], sums: Tensor, nonfinite: Tensor) -> Sequence[int]:
        """Measure what is small and plain in one call of torch's, where there is no C; return the others' indices."""
        small = {index: tensor for index, tensor in enumerate(tensors) if tensor is not None and _is_small(tensor)}
        for index, tensor in small.items():
            check_numel(index, tensor, self._numels[index])
        if not small:
            return range(len(tensors))
        with torch.no_grad():
            norms = torch.stack(torch._foreach_norm(list(small.values()), 2, torch.float64))
            places = torch.tensor(list(small))
            sums[places], nonfinite[places] = norms.square(), torch.zeros_like(norms)
        # A non-finite norm tells neither how many entries are not finite nor the sum of the others.
        done = {index for index, good in zip(small, torch.isfinite(norms).tolist(), strict=True) if good}
        return [index for index in range(len(tensors)) if index not in done]


def _is_small(tensor: Tensor) -> bool:
    return (
        tensor.numel() <= _SMALL
        and type(tensor) in (Tensor, nn.Parameter)
        and tensor.device.type == 'cpu'
        and tensor.layout == torch.strided
        and tensor.dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
        and not (tensor._is_zerotensor() or torch._is_functional_tensor(tensor))
    )


def _shares(numels: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Cut a list into ranges of neighbours that are worth a turn each.

    Example:
        >>> list(_shares([1 << 19, 1 << 19, 5, 1 << 21, 7]))
        [(0, 2), (2, 4), (4, 5)]
    """
    start = elements = 0
    for stop, numel in enumerate(numels, 1):
        elements += numel
        if elements >= _SHARE or stop == len(numels):
            yield start, stop
            start, elements = stop, 0
