"""The plan for a list of tensors on a CPU: which are measured in stacks, which alone, and which again with care."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ding_normmon.squares.blocks import LOWEST, Array, dot_limit
from ding_normmon.squares.careful import BLAS, careful_sum_of_squares, converted_sum_of_squares, has_nonzero, values_row
from ding_normmon.squares.large import LargeTensors
from ding_normmon.squares.layout import PIECE, check_numel
from ding_normmon.squares.stacked import FEWEST, MOST, Stacks

__all__ = ['HostSums']

_STACKED = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

_detach = torch.Tensor.detach
_numpy = torch.Tensor.numpy
_ravel = np.ndarray.ravel
_dot = np.ndarray.dot
_nbytes = attrgetter('nbytes')


class HostSums:
    """Sums of squares of the tensors of a list on a CPU, by the four kinds that ``SquareSums`` describes.

    Arguments:
        templates: tensors with the shapes and dtypes to come.
    """

    def __init__(self, templates: Sequence[Tensor]) -> None:
        self._numels = [template.numel() for template in templates]
        alike: dict[torch.dtype, dict[torch.Size, list[int]]] = {}
        for index, template in enumerate(templates):
            if 0 < template.numel() <= MOST and template.dtype in _STACKED:
                alike.setdefault(template.dtype, {}).setdefault(template.shape, []).append(index)
        limit = dot_limit()
        self._stacks: list[Stacks] = []
        for dtype, shapes in alike.items():
            shapes = {shape: indices for shape, indices in shapes.items() if len(indices) >= FEWEST}
            if shapes:
                self._stacks.append(Stacks(shapes, dtype, limit))
        stacked = [index for stacks in self._stacks for index in stacks.indices]
        rest = {index: template for index, template in enumerate(templates) if template.numel()}
        for index in stacked:
            del rest[index]
        single = [index for index, tensor in rest.items() if tensor.dtype in BLAS and tensor.numel() <= limit]
        large = [index for index, tensor in rest.items() if tensor.dtype == torch.float32 and tensor.numel() > limit]
        self._single = _SingleTensors(single, [rest[index] for index in single])
        self._large = LargeTensors(large, self._numels, limit)
        self._other = sorted(rest.keys() - {*single, *large})
        self._piece = torch.zeros(PIECE if self._other else 0)
        self._order = np.array(stacked + single + large + self._other, dtype=np.intp)
        self._values: Array = np.zeros(len(self._order))
        self._lowest = LOWEST * np.array(self._numels, dtype=np.float64)
        arrays = (self._values, self._lowest, self._order, self._piece)
        self.scratch_bytes = sum(array.nbytes for array in arrays)
        self.scratch_bytes += sum(stacks.scratch_bytes for stacks in self._stacks) + self._large.scratch_bytes

    def measure(self, tensors: Sequence[Tensor | None], sums: Tensor, nonfinite: Tensor) -> None:
        """Write the sum of squares and the number of non-finite entries of each tensor."""
        out, values = sums.numpy(), self._values
        # A product that overflows sets the processor's flag; it is found below, and is no reason for a warning.
        with np.errstate(all='ignore'):
            stop = 0
            parts: tuple[Stacks | _SingleTensors | LargeTensors, ...] = (*self._stacks, self._single, self._large)
            for part in parts:
                if part.indices:
                    start, stop = stop, stop + len(part.indices)
                    part.measure(tensors, values[start:stop])
            for position, index in enumerate(self._other, stop):
                values[position] = self._measure_other(index, tensors[index])
        out.fill(0.0)
        out[self._order] = values
        nonfinite.zero_()
        for index in np.flatnonzero(~((out >= self._lowest) & (out < math.inf))):
            tensor = tensors[index]
            # Zero gradients are common.
            if tensor is None or (out[index] == 0.0 and not has_nonzero(tensor)):
                continue
            out[index], nonfinite[index] = careful_sum_of_squares(tensor)

    def _measure_other(self, index: int, tensor: Tensor | None) -> float:
        if tensor is None:
            return 0.0
        check_numel(index, tensor, self._numels[index])
        return converted_sum_of_squares(tensor, self._piece)


class _SingleTensors:
    """Small float32 and float64 tensors without enough others of their shape: one dot product each, uncopied."""

    def __init__(self, indices: list[int], templates: Sequence[Tensor]) -> None:
        self.indices = indices
        self._numels = [template.numel() for template in templates]
        self._nbytes = [template.nbytes for template in templates]

    def measure(self, tensors: Sequence[Tensor | None], values: Array) -> None:
        """Write the sum of squares of each of these tensors of the whole list into ``values``."""
        # Mapped builtins: at a microsecond per tensor, one more bytecode loop over the list is 5% of the time.
        given: list[Any] = [tensors[index] for index in self.indices]
        try:
            rows = self._rows(given)
        except (RuntimeError, TypeError):  # None, sparse, half precision; the usual case pays no test
            present = [position for position, tensor in enumerate(given) if tensor is not None]
            for position in present:
                check_numel(self.indices[position], given[position], self._numels[position])
            rows = [values_row(given[position]) for position in present]
            values.fill(0.0)
            values[present] = list(map(_dot, rows, rows))
        else:
            values[:] = list(map(_dot, rows, rows))

    def _rows(self, given: list[Any]) -> list[Array]:
        try:
            rows = list(map(_ravel, map(_numpy, given)))
        except RuntimeError:  # a parameter among them: NumPy takes no tensor that requires grad
            rows = list(map(_ravel, map(_numpy, map(_detach, given))))
        # One look at the bytes finds another number of elements, and half precision, which NumPy adds as such.
        if list(map(_nbytes, rows)) != self._nbytes:
            raise TypeError
        return rows
