"""Checks of published tensors, and their masks: which entries belong to time steps that are data."""

from __future__ import annotations

import torch
from torch import Tensor

from ding_normmon.core.sharding import is_sharded
from ding_normmon.core.step import SignalError

__all__ = ['align_mask', 'check_mask', 'check_signal']


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


def check_signal(
    name: str, tensor: Tensor, mask: Tensor | None, device: torch.device, of_vectors: bool = False
) -> None:
    """Refuse what cannot be measured as a signal.

    Arguments:
        name: name of the signal, for the message.
        tensor: what was published.
        mask: its mask.
        device: device of the model.
        of_vectors: whether the norms of its vectors are measured, so that the mask must not divide one.

    Raises:
        SignalError: no strided floating-point tensor, another device, a mask that does not fit.
    """
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise SignalError(f'{name}: expected a floating-point tensor, got {got}')
    if tensor.layout != torch.strided or tensor.is_nested:
        kind = 'nested' if tensor.is_nested else str(tensor.layout).removeprefix('torch.')
        raise SignalError(f'{name}: expected a strided tensor, got a {kind} one; publish its values')
    if torch._is_functional_tensor(tensor):
        raise SignalError(f'{name}: a tensor inside torch.func.functionalize has no values; publish it outside')
    if is_sharded(tensor):
        raise SignalError(f'{name}: a DTensor; publish what this rank has of it, {name}.to_local()')
    if mask is not None and not isinstance(mask, Tensor):
        raise SignalError(f'{name}: expected a mask that is a tensor, got {type(mask).__name__}')
    if tensor.device.type not in (device.type, 'cpu'):
        raise SignalError(f'{name}: the tensor is on {tensor.device}, the model on {device}')
    if mask is not None:
        if tensor.is_cpu and not mask.is_cpu:
            raise SignalError(f'{name}: the tensor is on {tensor.device}, its mask on {mask.device}')
        check_mask(tensor, mask, name)
        if of_vectors and tensor.numel() and tensor.numel() // tensor.shape[-1] % mask.numel():
            raise SignalError(
                f'{name}: a mask of shape {tuple(mask.shape)} does not fit the vectors (the last dimension) of a '
                f'tensor of shape {tuple(tensor.shape)}; expected (B, n*T, E) or (B*T, ..., E)'
            )
