"""Whether the gradient that a step trains with is that of the losses it was told of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ding_normmon.metrics.shared_parameters import SharedGroup

__all__ = ['sketch_gradients', 'unexplained_part']


def sketch_gradients(groups: Sequence[SharedGroup], parameters: Sequence[nn.Parameter]) -> Tensor:
    """Return the sketches of what is in ``.grad``, all groups behind each other; 0 where nothing is."""
    gradients = [parameter.grad for parameter in parameters]
    parts = []
    for group in groups:
        of_group = group.of(gradients)
        device = next((gradient.device for gradient in of_group if gradient is not None), torch.device('cpu'))
        out = torch.zeros(group.sketch.size, dtype=torch.float32, device=device)
        if any(gradient is not None for gradient in of_group):
            group.sketch(of_group, out, torch.zeros((), dtype=torch.float64, device=device))
        parts.append(out.double().cpu())
    return torch.cat(parts)


def unexplained_part(explained: Tensor, before: Tensor, after: Tensor) -> float | None:
    """Return how much of a gradient its losses do not explain: the norm of what is left over, over its own.

    Arguments:
        explained: sketch of the sum of the gradients of the losses.
        before: sketch of what was in ``.grad`` before the backward pass: of an earlier part of an accumulated gradient,
            or of the last step, which is wiped before this one.
        after: sketch of what is there behind it.

    Returns:
        the smaller of both readings of ``before``, for the best positive scale (a loss scaler's, a division by the
        number of parts); None where one of the gradients is 0 or not finite, so that nothing can be said.

    Example:
        >>> a, b = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
        >>> unexplained_part(a, torch.zeros(2), 8 * a), unexplained_part(a, torch.zeros(2), a + b)
        (0.0, 0.8)
    """
    square = float(explained @ explained)
    readings = []
    for gradient in (after, after - before):
        norm = float(gradient.norm())
        if square and norm and math.isfinite(square) and math.isfinite(norm):
            scale = max(0.0, float(gradient @ explained) / square)
            readings.append(float((gradient - scale * explained).norm()) / norm)
    return min(readings, default=None)
