"""Gradients of ranks that train different tasks: shared ones are summed, private ones left alone, all clipped together.

Without ``torch.distributed`` every function works as in a group of one rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ding_normmon.unizero.ranks import is_distributed

__all__ = [
    'all_reduce_sum',
    'broadcast_parameters',
    'clip_gradients',
    'squared_gradient_norm',
    'sum_shared_gradients',
]


def all_reduce_sum(values: Sequence[float], device: torch.device) -> list[float]:
    """Return the sums over the ranks of some numbers, in float64."""
    if not is_distributed():
        return [float(value) for value in values]
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return [float(value) for value in tensor.tolist()]


def broadcast_parameters(module: nn.Module) -> None:
    """Copy rank 0's parameters and buffers to every rank."""
    if is_distributed():
        with torch.no_grad():
            for tensor in [*module.parameters(), *module.buffers()]:
                dist.broadcast(tensor, src=0)


def sum_shared_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Sum the gradients of shared parameters over the ranks, in one message.

    A parameter that has a gradient on some ranks counts as zero on the others; if no rank has one, it stays None.
    The same message says which parameters have one: it starts with one number per parameter.

    Arguments:
        parameters: the same parameters in the same order on every rank, of one dtype and device.
    """
    if not is_distributed() or not parameters:
        return
    first = parameters[0]
    flat = torch.zeros(
        len(parameters) + sum(parameter.numel() for parameter in parameters), dtype=first.dtype, device=first.device
    )
    has_gradient, values = flat[: len(parameters)], flat[len(parameters) :]
    parts = values.split([parameter.numel() for parameter in parameters])
    for index, (parameter, part) in enumerate(zip(parameters, parts, strict=True)):
        if parameter.grad is not None:
            has_gradient[index] = 1
            part.copy_(parameter.grad.reshape(-1))
    dist.all_reduce(flat)
    for count, parameter, part in zip(has_gradient.tolist(), parameters, parts, strict=True):
        if count:
            parameter.grad = part.view_as(parameter)


def squared_gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    """Return the squared L2 norm of the gradients, in float64.

    float32 norms overflow to infinity when entries exceed about 1e19; the clip factor then becomes 0, and the step
    silently uses no gradient at all. In that case the norms are computed again in float64.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return 0.0
    norms = torch.stack(torch._foreach_norm(gradients)).double()
    total = float(norms.square().sum())
    if not math.isfinite(total):
        total = float(sum(gradient.double().square().sum() for gradient in gradients))
    return total


def clip_gradients(parameters: Iterable[nn.Parameter], squared_norm: float, max_norm: float) -> float:
    """Scale the gradients to a global norm of at most ``max_norm``.

    Arguments:
        parameters: this rank's parameters.
        squared_norm: squared norm of the gradients of all ranks; the same on every rank, so the factor is too.
        max_norm: the limit.

    Returns:
        The norm before clipping; if it is not finite, no gradient is scaled.
    """
    norm = math.sqrt(squared_norm) if squared_norm >= 0 else math.nan
    factor = max_norm / (norm + 1e-6)
    if math.isfinite(norm) and factor < 1:
        gradients: list[Tensor] = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, factor)
    return norm
