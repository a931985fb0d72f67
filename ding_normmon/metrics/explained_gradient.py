"""Checks that the gradient of a step is made of the losses per task that the policy gives."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ding_normmon.metrics.shared_parameters import SharedParameters

__all__ = ['LossCheck', 'unexplained_part']


class LossCheck:
    """Compares, in the first step in which it can, the gradient of this rank with that of the losses it was given.

    Arguments:
        shared: the shared parameters.
    """

    def __init__(self, shared: SharedParameters) -> None:
        self._shared = shared
        self._is_done = False
        self._before: Tensor | None = None
        self._given: list[int] = []

    def begin(self) -> None:
        """Begin a step: note what is in ``.grad`` before the backward pass."""
        self._given = []
        if not self._is_done:
            self._before = self._sketch()

    def add(self, task_id: int) -> None:
        """Note that the loss of a task was given."""
        self._given.append(task_id)

    def unexplained(self, sketch_of_sum: Callable[[list[int]], Tensor]) -> float | None:
        """Return the part of the gradient that the losses do not explain; None if that was checked before or cannot be.

        Waits for the device once.

        Arguments:
            sketch_of_sum: returns the sketch of the sum of these tasks' gradients.
        """
        before, self._before = self._before, None
        # A task that was given twice: the gradient is accumulated over several passes.
        if self._is_done or before is None or not self._given or len(set(self._given)) < len(self._given):
            return None
        left = unexplained_part(sketch_of_sum(self._given), before, self._sketch())
        self._is_done = left is not None
        return left

    def _sketch(self) -> Tensor:
        """Return the sketches of ``.grad``, all groups one after another; 0 if there is none."""
        gradients = [parameter.grad for parameter in self._shared.parameters]
        parts = []
        for group in self._shared.groups:
            of_group = group.of(gradients)
            device = next((gradient.device for gradient in of_group if gradient is not None), torch.device('cpu'))
            out = torch.zeros(group.sketch.size, dtype=torch.float32, device=device)
            if any(gradient is not None for gradient in of_group):
                group.sketch(of_group, out, torch.zeros((), dtype=torch.float64, device=device))
            parts.append(out.double().cpu())
        return torch.cat(parts)


def unexplained_part(explained: Tensor, before: Tensor, after: Tensor) -> float | None:
    """Return how much of a gradient its losses do not explain: the norm of the rest over the norm of the whole.

    Arguments:
        explained: sketch of the sum of the gradients of the losses.
        before: sketch of ``.grad`` before the backward pass: the earlier part of an accumulated gradient, or the
            gradient of the last step, which is wiped before this one.
        after: sketch of ``.grad`` after it.

    Returns:
        the smaller of both readings of ``before``, for the best positive scale (a loss scaler's, a division by the
        number of parts); None if one of the gradients is 0 or not finite, so that nothing can be said.

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
