"""One tensor at a time in NumPy and torch: any dtype, any layout, any values."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ding_normmon.metrics.kernels.squares.layout import pieces, plain, without_repeats

__all__ = ['careful_sum_of_squares', 'sum_of_squares']

_BLOCK = 1024
"""Squares that are added in float32 before float64 takes over."""

_LOWEST = 2.0**-102
"""A float32 sum of n squares is free of underflow when it reaches n times this: 2^-126 (normal range) / 2^-24."""


def sum_of_squares(tensor: Tensor) -> tuple[float, int]:
    r"""Sum the squares of the finite entries, and count the others; quickly where the values allow.

    Blocks of 1,024 squares are added in float32 and their sums in float64: the two-level summation of Blanchard, Higham
    & Mary, *A class of fast and accurate summation algorithms*, SIAM J. Sci. Comput. 42(3), A1541-A1557, 2020, whose
    error does not grow with the tensor's size. A float32 block overflows from :math:`|x_i| \approx 1.8 \cdot 10^{19}`
    on; below :math:`|x_i| \approx 10^{-19}` a square is subnormal or zero, an absolute error of at most
    :math:`2^{-126}` each, invisible as long as :math:`s \ge n\,2^{-126}/u`. So :math:`n\,2^{-102} \le s < \infty`
    certifies the sum, and a tensor that fails the test (NaN and infinities fail it too) is measured again in float64.

    Example:
        >>> sum_of_squares(torch.full((3, 1000), 2.0, dtype=torch.bfloat16))
        (12000.0, 0)
        >>> sum_of_squares(torch.tensor([3.0, math.inf]))
        (9.0, 1)
    """
    once, times = without_repeats(plain(tensor))
    if not once.dtype.is_floating_point or once.dtype == torch.float64:
        return careful_sum_of_squares(tensor)
    total = 0.0
    with np.errstate(all='ignore'):
        for piece in pieces(once) if once.numel() else ():
            row = piece.to(torch.float32).numpy()
            main = len(row) // _BLOCK * _BLOCK
            if main:
                rows = row[:main].reshape(-1, 1, _BLOCK)
                total += float(np.matmul(rows, rows.reshape(-1, _BLOCK, 1)).sum(dtype=np.float64))
            total += float(row[main:].dot(row[main:]))
    if _LOWEST * once.numel() <= total < math.inf or not once.any():
        return total * times, 0
    return careful_sum_of_squares(tensor)


def careful_sum_of_squares(tensor: Tensor) -> tuple[float, int]:
    """Sum the squares of the finite entries in float64, and count the others; right for any input.

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
