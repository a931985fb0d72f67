"""The path for accelerators: every tensor in rows of one width, masked and added there, with no wait for the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ding_normmon.metrics.kernels.squares.layout import check_numel, dense_flat

__all__ = ['DeviceSums']

_ROW = 512
"""Elements of a row. Each row has one owner, so that the sums of rows can be added to the sums of tensors."""

_CHUNK = 1 << 22
"""Elements of the scratch buffer, at most: 16 MiB in float32."""


class DeviceSums:
    """Sums of squares of the tensors of a list on one device.

    Every tensor begins on a row of its own, and zeros fill its last one; chunks of rows share one scratch buffer.

    Arguments:
        templates: tensors with the shapes and dtypes to come.
        device: where they are.
    """

    def __init__(self, templates: Sequence[Tensor], device: torch.device) -> None:
        self._numels = numels = [template.numel() for template in templates]
        rows = sum(-(-numel // _ROW) for numel in numels)
        chunk_rows = max(1, min(_CHUNK // _ROW, rows))
        self._chunks: list[list[tuple[int, int, int]]] = [[]]  # (tensor, first element, one past the last)
        owners: list[list[int]] = [[]]
        for index, numel in enumerate(numels):
            first = 0
            while first < numel:
                free = chunk_rows - len(owners[-1])
                if not free:
                    self._chunks.append([])
                    owners.append([])
                    continue
                last = min(numel, first + free * _ROW)
                self._chunks[-1].append((index, first, last))
                owners[-1] += [index] * -(-(last - first) // _ROW)
                first = last
        self._owners = [torch.tensor(chunk, dtype=torch.int64).to(device) for chunk in owners]
        self._cells = chunk_rows * _ROW if rows else 0
        self._device = device
        self._allocate(torch.float32 if all(map(_fits_float32, templates)) else torch.float64)

    def _allocate(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._grid = torch.zeros(self._cells, dtype=dtype, device=self._device)
        self._zeros = torch.zeros(_ROW, dtype=dtype, device=self._device)
        self.scratch_bytes = sum(tensor.nbytes for tensor in (self._grid, self._zeros, *self._owners))

    @torch.no_grad()
    def measure(self, tensors: Sequence[Tensor | None], sums: Tensor, nonfinite: Tensor) -> None:
        """Write the sum of squares and the number of non-finite entries of each tensor."""
        if self._dtype == torch.float32 and not all(tensor is None or _fits_float32(tensor) for tensor in tensors):
            # The model has become wider than it was: model.double().
            self._allocate(torch.float64)
        sums.zero_()
        nonfinite.zero_()
        flats: dict[int, Tensor] = {}
        for chunk, owner in zip(self._chunks, self._owners, strict=True):
            parts: list[Tensor] = []
            for index, first, last in chunk:
                tensor = tensors[index]
                pad = -(last - first) % _ROW
                if tensor is None:
                    parts.append(self._zeros[:1].expand(last - first + pad))
                    continue
                if first == 0:
                    check_numel(index, tensor, self._numels[index])
                    plain = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
                    flat = dense_flat(plain)
                    flats = {index: (plain.reshape(-1) if flat is None else flat).to(self._dtype)}
                parts.append(flats[index][first:last])
                if pad:
                    parts.append(self._zeros[:pad])
            if not parts:
                continue
            rows = self._grid[: len(owner) * _ROW]
            torch.cat(parts, out=rows)
            finite = torch.isfinite(rows).view(-1, _ROW)
            wide = rows.view(-1, _ROW).to(torch.float64)
            # The mask multiplies nothing: 0 * inf is NaN. Zeros replace what is not finite.
            wide.masked_fill_(~finite, 0.0)
            sums.index_add_(0, owner, wide.square_().sum(dim=1))
            nonfinite.index_add_(0, owner, (_ROW - finite.sum(dim=1)).to(torch.float64))


def _fits_float32(tensor: Tensor) -> bool:
    return tensor.dtype.is_floating_point and tensor.dtype != torch.float64
