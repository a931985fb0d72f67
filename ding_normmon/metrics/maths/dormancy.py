r"""Which units of a layer are dormant: mergeable sums of magnitudes per unit, and the sets derived from them.

For the units :math:`i = 1 \dots H` of a layer with outputs :math:`h_i(x)`, the score of Sokar et al., "The dormant
neuron phenomenon in deep reinforcement learning" (ICML 2023), equation 1, is

.. math:: s_i = \frac{E_x |h_i(x)|}{\frac{1}{H} \sum_k E_x |h_k(x)|}

and a unit is :math:`\tau`-dormant if :math:`s_i \le \tau`. In a layer that is dead altogether (0/0) every unit is. The
gradient-based variant puts :math:`|\partial L / \partial h_i|` in the place of :math:`|h_i|` (after GraMa: Liu et al.,
"Measure gradients, not activations! Enhancing neuronal activity in deep reinforcement learning", NeurIPS 2025): a unit
whose output the loss does not feel learns nothing, however active it is. Units of a convolution are its channels;
magnitudes are added over space.

The number of samples cancels, so what is kept of a layer is an **activity vector**: the mean over all units of the
summed magnitudes, followed by the sums of the units themselves. Vectors of tasks and ranks add up to that of all
samples, and only then is anything compared; the ratio of all tasks is not an average of ratios.

Worked numbers: sums (0, 1, 3, 8) have mean 3 and scores (0, 1/3, 1, 8/3): one of four units is 0.1-dormant.

>>> vector = np.array([3.0, 0.0, 1.0, 3.0, 8.0])
>>> dormant(vector, 0.1).tolist()
[True, False, False, False]
>>> jaccard(dormant(vector, 0.1), dormant(vector, 0.5))
0.5
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = [
    'activities',
    'activity',
    'check_samples',
    'dormant',
    'jaccard',
    'overlap',
    'sample_mask',
    'total',
    'unit_sums',
]

Mask = npt.NDArray[np.bool_]
Vector = npt.NDArray[np.float32] | npt.NDArray[np.float64]


def sample_mask(shape: tuple[int, ...], mask: Tensor | None) -> Tensor | None:
    """Return which samples of a layer's output are valid, shaped like its leading dimensions.

    Arguments:
        shape: of the output: (B, n*T, H) tokens, (B*T, H) or (B*T, ..., H) vectors, (B*T, C, height, width) images.
        mask: (B, T), true where the time step is data; None means that all of it is.

    Raises:
        ValueError: the samples cannot be matched to time steps.

    >>> mask = torch.tensor([[True, False]])
    >>> sample_mask((1, 4, 8), mask).int().tolist(), sample_mask((2, 3, 9, 9), mask).int().tolist()
    ([[1, 1, 0, 0]], [1, 0])
    """
    check_samples(shape, mask)
    if mask is None:
        return None
    if _is_of_tokens(shape, mask):
        return mask.bool().repeat_interleave(shape[1] // mask.shape[1], dim=1)
    return mask.bool().reshape(-1)


def check_samples(shape: tuple[int, ...], mask: Tensor | None) -> None:
    """Check that the samples of a layer's output can be matched to time steps, see :func:`sample_mask`."""
    if mask is None or _is_of_tokens(shape, mask):
        return
    if len(shape) < 2 or shape[0] != mask.shape[0] * mask.shape[1]:
        raise ValueError(f'an output of shape {tuple(shape)} does not fit a mask of shape {tuple(mask.shape)}')


def _is_of_tokens(shape: tuple[int, ...], mask: Tensor) -> bool:
    return len(shape) == 3 and shape[0] == mask.shape[0] and shape[1] % mask.shape[1] == 0


def activity(output: Tensor, valid: Tensor | None, stride: int = 1) -> Tensor:
    """Return the activity vector of a layer's outputs, or of their gradients: float64, 1 + number of units.

    Arguments:
        output: units in dimension 1 of four dimensions, else in the last.
        valid: from :func:`sample_mask`.
        stride: keep only one of so many units; the mean in front is over all of them.

    >>> activity(torch.tensor([[1., -2.], [3., 0.], [9., 9.]]), torch.tensor([True, True, False])).tolist()
    [3.0, 4.0, 2.0]
    """
    magnitude = output.abs()
    if output.ndim == 4:
        magnitude = magnitude.flatten(2).sum(2, dtype=_dtype_over_space(output))
    if valid is not None:
        magnitude = magnitude[valid]
    sums = magnitude.reshape(-1, magnitude.shape[-1]).sum(0, dtype=torch.float64)
    return torch.cat([sums.mean().reshape(1), sums[::stride]])


def unit_sums(outputs: Tensor, invalid: Tensor | None) -> Tensor:
    """Return the summed magnitudes of the units of several outputs of one shape, float64, shape (outputs, H).

    Selecting would have to wait for an accelerator to count, so what is not valid becomes 0.

    Arguments:
        outputs: several of (B, n*T, H), (B*T, ..., H) or (B*T, C, height, width).
        invalid: (outputs, B*T), true where a time step is no data; None means that all of it is.

    >>> outputs = torch.tensor([[[1., -2.], [3., 0.], [9., 9.]]])
    >>> unit_sums(outputs, torch.tensor([[False, False, True]])).tolist()
    [[4.0, 2.0]]
    """
    if outputs.ndim == 5:
        outputs = torch.linalg.vector_norm(outputs, ord=1, dim=(3, 4), dtype=_dtype_over_space(outputs[0]))
    if invalid is None:
        table = outputs.reshape(len(outputs), -1, outputs.shape[-1])
    else:
        table = outputs.reshape(*invalid.shape, -1, outputs.shape[-1])
        table = table.masked_fill(invalid[:, :, None, None], 0.0).flatten(1, 2)
    return torch.linalg.vector_norm(table, ord=1, dim=1, dtype=torch.float64)


def activities(sums: Tensor, stride: int = 1) -> Tensor:
    """Return the activity vectors that belong to sums of units, shape (N, H), as a table of shape (N, 1 + H).

    >>> activities(torch.tensor([[4., 2.], [0., 1.]])).tolist()
    [[3.0, 4.0, 2.0], [0.5, 0.0, 1.0]]
    """
    return torch.cat([sums.mean(dim=1, keepdim=True), sums[:, ::stride]], dim=1)


def _dtype_over_space(output: Tensor) -> torch.dtype:
    # Few enough numbers for float32, which is three times as fast.
    few = output.dtype == torch.float32 and output.shape[2] * output.shape[3] <= 1024
    return torch.float32 if few else torch.float64


def dormant(vector: Vector, tau: float) -> Mask:
    """Return which units of an activity vector are dormant."""
    return np.asarray(vector[1:] <= tau * vector[0])


def jaccard(first: Mask, second: Mask) -> float | None:
    """Return the size of the intersection over that of the union; None if both sets are empty."""
    union = int(np.count_nonzero(first | second))
    return int(np.count_nonzero(first & second)) / union if union else None


def total(tasks: Mapping[int | None, Mapping[str, Vector]]) -> dict[str, Vector]:
    """Return the activity vectors of all tasks together, by layer."""
    found: dict[str, Vector] = {}
    for layers in tasks.values():
        for path, vector in layers.items():
            found[path] = found[path] + vector if path in found else vector
    return found


def overlap(first: Mapping[str, Mask], second: Mapping[str, Mask]) -> float | None:
    """Return the Jaccard index of two dormant sets over the layers that both have."""
    common = [path for path in first if path in second and len(first[path]) == len(second[path])]
    if not common:
        return None
    return jaccard(np.concatenate([first[path] for path in common]), np.concatenate([second[path] for path in common]))
