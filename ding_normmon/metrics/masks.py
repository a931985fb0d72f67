"""Masks of published tensors: which of their entries belong to time steps that are data."""

from __future__ import annotations

from torch import Tensor

from ding_normmon.core.step import SignalError

__all__ = ['align_mask', 'check_mask']


def check_mask(tensor: Tensor, mask: Tensor, name: str = 'tensor') -> None:
    """Refuse a mask that does not fit a tensor, see :func:`align_mask`.

    Raises:
        SignalError: it does not fit.
    """
    if mask.ndim != 2:
        raise SignalError(f'{name}: the mask must have shape (B, T), got {tuple(mask.shape)}')
    batch, steps = mask.shape
    fits = tensor.ndim >= 2 and tensor.shape[0] == batch and steps > 0 and tensor.shape[1] % steps == 0
    if not fits and not (tensor.ndim >= 1 and tensor.shape[0] == batch * steps):
        raise SignalError(
            f'{name}: a mask of shape {tuple(mask.shape)} does not fit a tensor of shape {tuple(tensor.shape)}; '
            f'expected (B, n*T, ...) or (B*T, ...)'
        )


def align_mask(tensor: Tensor, mask: Tensor, name: str = 'tensor') -> tuple[Tensor, Tensor]:
    """Return tensor and mask with equal leading shape (B, n*T).

    A mask (B, T) applies to (B, n*T, ...) by repeating each step n times in place, because the observation and action
    token of a step are valid if and only if the step is; a tensor (B*T, ...) is first viewed as (B, T, ...).

    Raises:
        SignalError: any other pair of shapes.

    >>> import torch
    >>> tensor, mask = align_mask(torch.zeros(2, 4, 3), torch.tensor([[True, False], [True, True]]))
    >>> mask.int().tolist()
    [[1, 1, 0, 0], [1, 1, 1, 1]]
    """
    check_mask(tensor, mask, name)
    batch, steps = mask.shape
    # With one step a (B, E) tensor is (B*T, E) and not E tokens of one step.
    flat = tensor.ndim == 2 and steps == 1
    if not flat and tensor.ndim >= 2 and tensor.shape[0] == batch and steps > 0 and tensor.shape[1] % steps == 0:
        repeats = tensor.shape[1] // steps
        return tensor, mask.bool() if repeats == 1 else mask.bool().repeat_interleave(repeats, dim=1)
    return tensor.reshape(batch, steps, *tensor.shape[1:]), mask.bool()
