"""The factors by which clipping multiplies gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ding_normmon.core.sharding import replicated_value

__all__ = ['clip_coefficient', 'norm_ratio']

_EPSILON = 1e-6
"""Term that ``torch.nn.utils.clip_grad_norm_`` adds to the norm."""


def clip_coefficient(norm: Tensor | float, max_norm: Tensor | float) -> Tensor | float:
    """Return min(1, max_norm / (norm + 1e-6)), the factor of ``torch.nn.utils.clip_grad_norm_``; NaN if the norm is.

    An infinite norm gives 0, by which the gradients are multiplied: finite gradients whose norm overflows are lost.

    Raises:
        ValueError: a ``DTensor`` whose value the ranks have not added up yet.

    >>> round(clip_coefficient(4.0, 0.5), 6)
    0.125
    >>> clip_coefficient(0.25, 0.5)
    1.0
    >>> clip_coefficient(math.inf, 0.5)
    0.0
    """
    if not isinstance(norm, Tensor) and not isinstance(max_norm, Tensor):
        return math.nan if math.isnan(norm) else min(1.0, max_norm / (norm + _EPSILON))
    number = _whole(norm) if isinstance(norm, Tensor) else torch.tensor(norm, dtype=torch.float64)
    limit = _whole(max_norm).to(number.device) if isinstance(max_norm, Tensor) else max_norm
    return (limit / (number + _EPSILON)).clamp(max=1.0)


def _whole(value: Tensor) -> Tensor:
    whole = replicated_value(value)
    if whole is None:
        raise ValueError('the norm is a DTensor that the ranks have not added up; pass norm.full_tensor()')
    return whole.detach().reshape(()).to(torch.float64)


def norm_ratio(found: Tensor) -> Tensor:
    """Return the ratio of two norms; 1 if the first is 0, NaN if an entry is not finite.

    Arguments:
        found: squared norm before, squared norm after, number of non-finite entries; float64, shape (3,).
    """
    before, after, nonfinite = found.unbind()
    one = torch.ones_like(before)
    ratio = torch.where(before > 0, (after / torch.where(before > 0, before, one)).sqrt(), one)
    return torch.where(nonfinite > 0, torch.full_like(before, math.nan), ratio)
