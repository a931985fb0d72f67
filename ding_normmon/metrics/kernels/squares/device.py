"""Sums of squares on an accelerator: every tensor in rows of one width, masked and summed without waiting."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from ding_normmon.metrics.kernels.squares.layout import check_numel, dense_flat
from ding_normmon.rows.chunks import Piece, cut

__all__ = ['DeviceSums']

_ROW = 512
"""Elements of a row. Each row has one owner, so that the sums of rows can be added to the sums of tensors."""

_CHUNKS = 16
"""Approximate number of chunks of a model; each takes six operations."""

_SMALLEST, _LARGEST = 1 << 21, 1 << 24
"""Smallest and largest number of elements of a chunk; each takes 16 bytes of memory, freed at once."""


class DeviceSums:
    """Sums of squares of the tensors of a list on one device.

    Every tensor begins on a row of its own, and zeros fill its last one. Rows of tensors of one dtype stand one below
    the other, a chunk at a time, and are added in float64.

    Arguments:
        templates: tensors with the shapes and dtypes to come.
        device: where they are.
    """

    def __init__(self, templates: Sequence[Tensor], device: torch.device) -> None:
        self._numels = [template.numel() for template in templates]
        self._zeros = {dtype: torch.zeros(1, dtype=dtype, device=device) for dtype in set(map(_stored, templates))}
        rows = max(1, min(max(sum(self._numels) // _CHUNKS, _SMALLEST), _LARGEST) // _ROW)
        self._chunks: list[tuple[torch.dtype, list[Piece], int]] = []
        owners: list[int] = []
        for dtype in self._zeros:
            indices = [index for index, template in enumerate(templates) if _stored(template) == dtype]
            for pieces in cut([self._numels[index] for index in indices], rows, _ROW):
                own = [indices[place] for place, first, last in pieces for _ in range(first, last, _ROW)]
                chosen = [(indices[place], first, last) for place, first, last in pieces]
                self._chunks.append((dtype, chosen, len(own)))
                owners += own
        self._owners = torch.tensor(owners, dtype=torch.int64).to(device)
        self.scratch_bytes = self._owners.nbytes + sum(zero.nbytes for zero in self._zeros.values())

    @torch.no_grad()
    def measure(self, tensors: Sequence[Tensor | None], sums: Tensor, nonfinite: Tensor) -> None:
        """Write the sum of squares and the number of non-finite entries of each tensor."""
        sums.zero_()
        nonfinite.zero_()
        if not self._chunks:
            return
        lengths, bad = sums.new_empty(2, len(self._owners))
        flats: dict[int, Tensor] = {}
        start = 0
        for dtype, pieces, rows in self._chunks:
            parts: list[Tensor] = []
            zero = self._zeros[dtype]
            for index, first, last in pieces:
                tensor = tensors[index]
                pad = -(last - first) % _ROW
                if tensor is None:
                    parts.append(zero.expand(last - first + pad))
                    continue
                if first == 0:
                    check_numel(index, tensor, self._numels[index])
                    flats = {index: _flat(tensor)}
                parts.append(flats[index][first:last])
                if pad:
                    parts.append(zero.expand(pad))
            # A model may have become wider since: model.double().
            wide = functools.reduce(torch.promote_types, {part.dtype for part in parts})
            table = torch.cat([part.to(wide) for part in parts]).view(rows, _ROW)
            table = table.to(torch.float32 if _fits_float32(table) else torch.float64)
            clean = torch.nan_to_num(table, nan=0.0, posinf=0.0, neginf=0.0)
            stop = start + rows
            # Only non-finite entries have changed; this norm counts the entries that are not zero.
            bad[start:stop] = torch.linalg.vector_norm(table.sub_(clean), ord=0, dim=1)
            torch.linalg.vector_norm(clean, dim=1, dtype=torch.float64, out=lengths[start:stop])
            start = stop
        sums.index_add_(0, self._owners, lengths.square_())
        nonfinite.index_add_(0, self._owners, bad)


def _stored(tensor: Tensor) -> torch.dtype:
    """Return the dtype in which tensors can be concatenated, which float8 cannot be."""
    return torch.float32 if tensor.is_floating_point() and tensor.element_size() == 1 else tensor.dtype


def _flat(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    if tensor.is_sparse:
        tensor = tensor.to_dense()
    if _stored(tensor) != tensor.dtype:
        tensor = tensor.float()
    flat = dense_flat(tensor)
    return tensor.reshape(-1) if flat is None else flat


def _fits_float32(tensor: Tensor) -> bool:
    return tensor.dtype.is_floating_point and tensor.dtype != torch.float64
