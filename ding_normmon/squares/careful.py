"""One tensor at a time, piece by piece: any dtype, any layout, and a second pass in float64 for any values."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ding_normmon.squares.blocks import BLOCK, Array
from ding_normmon.squares.layout import PIECE, pieces, plain, without_repeats

__all__ = ['BLAS', 'careful_sum_of_squares', 'converted_sum_of_squares', 'has_nonzero', 'values_row']

BLAS = (torch.float32, torch.float64)
"""The dtypes whose dot products NumPy hands to BLAS."""


def careful_sum_of_squares(tensor: Tensor) -> tuple[float, int]:
    """Sum the squares of the finite entries in float64, and count the others; right for any input, 5 times slower.

    Temporary memory is bounded by a piece of 65,536 elements, whatever the tensor's size.

    Example:
        >>> total, nonfinite = careful_sum_of_squares(torch.tensor([1e25, float('nan'), 0.0]))
        >>> f'{total:.6g}', nonfinite
        ('1e+50', 1)
    """
    total, nonfinite = 0.0, 0
    tensor, times = without_repeats(plain(tensor))
    if tensor.numel():
        for piece in pieces(tensor):
            wide = piece.to(torch.float64)
            finite = torch.isfinite(wide)
            bad = wide.numel() - int(torch.count_nonzero(finite))
            if bad:
                nonfinite += bad
                wide = torch.where(finite, wide, 0.0)
            total += float(torch.dot(wide, wide))
    return total * times, nonfinite * times


def converted_sum_of_squares(tensor: Tensor, scratch: Tensor) -> float:
    """The sum of squares of one tensor of any dtype and layout, converted piece by piece.

    Arguments:
        tensor: the tensor.
        scratch: float32 row of a piece's length to convert into; an empty one stands for memory of its own.

    Example:
        >>> converted_sum_of_squares(torch.full((3, 1000), 2.0, dtype=torch.bfloat16), torch.empty(0))
        12000.0
    """
    tensor, times = without_repeats(plain(tensor))
    total = 0.0
    if tensor.numel() <= BLOCK and tensor.dtype.is_floating_point:
        row = values_row(tensor)
        total = float(row.dot(row))
    elif tensor.dtype.is_floating_point and tensor.dtype != torch.float64:
        scratch = scratch if scratch.numel() else torch.empty(min(PIECE, tensor.numel()))
        for piece in pieces(tensor):
            used = piece.numel()
            main = used // BLOCK * BLOCK
            scratch[:used].copy_(piece)
            row = scratch[:used].numpy()
            if main:
                rows = row[:main].reshape(-1, 1, BLOCK)
                total += float(np.matmul(rows, rows.reshape(-1, BLOCK, 1)).sum(dtype=np.float64))
            total += float(row[main:].dot(row[main:]))
    else:
        for piece in pieces(tensor):
            wide = piece.to(torch.float64)
            total += float(torch.dot(wide, wide))
    return total * times


def has_nonzero(tensor: Tensor) -> bool:
    """Whether any value differs from zero; many times cheaper than the second pass.

    Example:
        >>> has_nonzero(torch.tensor([0.0, float('nan')])), has_nonzero(-torch.zeros(3))
        (True, False)
    """
    tensor = plain(tensor)
    # NumPy's search stops early and costs a third of torch's, but it does not know half precision.
    return bool(tensor.numpy().any()) if tensor.dtype == torch.float32 else bool(tensor.any())


def values_row(tensor: Tensor) -> Array:
    """A NumPy row of a small tensor's values: without a copy where its memory and dtype allow.

    Example:
        >>> values_row(torch.tensor([[1.5], [2.5]], dtype=torch.bfloat16))
        array([1.5, 2.5], dtype=float32)
    """
    tensor = plain(tensor)
    if tensor.dtype not in BLAS:
        tensor = tensor.to(torch.float32)
    return tensor.numpy().reshape(-1)
