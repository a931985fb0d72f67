"""Sums of squares of a fixed list of tensors, on a CPU or an accelerator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ding_normmon.metrics.kernels.squares.device import DeviceSums
from ding_normmon.metrics.kernels.squares.host import HostSums

__all__ = ['SquareSums']


class SquareSums:
    r"""Sum of squares of each tensor in a fixed-length list, written into a float64 tensor.

    On a CPU every strided floating tensor without gaps is added in C, in one call for the whole list, where it lies
    (:mod:`ding_normmon.metrics.kernels.native`); others, and all where nothing was compiled, are read piece by piece.
    Tensors with more than 8 M elements together are shared with as many helper threads as torch would use, and at most
    7. The tensors of one call are all measured when it returns.

    On any other device the tensors of a chunk are laid out in rows of 512 in one scratch buffer, masked there, and
    added in float64, with no host read and no wait for the device.

    Tensors are never changed, and no tensor is held between calls.
    A finite float64 tensor whose sum of squares is out of float64's own range is reported as infinite, or as zero.

    Arguments:
        templates: tensors with the shapes, dtypes and the device to come; only these are read, and nothing is kept.

    Example:
        >>> weights = [torch.full((3, 4), 2.0), torch.tensor([3.0, float('inf')]), torch.tensor(5.0)]
        >>> sums = SquareSums(weights)
        >>> out, nonfinite = torch.empty(3, dtype=torch.float64), torch.empty(3, dtype=torch.float64)
        >>> sums([weights[0], weights[1], None], out, nonfinite)
        >>> out.tolist(), nonfinite.tolist()
        ([48.0, 9.0, 0.0], [0.0, 1.0, 0.0])
        >>> sums.scratch_bytes
        0
    """

    def __init__(self, templates: Sequence[Tensor]) -> None:
        devices = {template.device for template in templates}
        if len(devices) > 1:
            raise ValueError(f'templates must be on one device, got {sorted(map(str, devices))}')
        for index, template in enumerate(templates):
            if template.is_complex():
                raise TypeError(f'template {index} must be real, got {template.dtype}')
        self.device = devices.pop() if devices else torch.device('cpu')
        self._count = len(templates)
        is_on_host = self.device.type == 'cpu'
        self._path = HostSums(templates) if is_on_host else DeviceSums(templates, self.device)

    @property
    def scratch_bytes(self) -> int:
        """Memory held between calls."""
        return self._path.scratch_bytes

    def __call__(self, tensors: Sequence[Tensor | None], sums: Tensor, nonfinite: Tensor) -> None:
        """Write the sum of squares and the number of non-finite entries of each tensor; None counts as empty.

        Arguments:
            tensors: as many as there were templates, in their order, with their numbers of elements.
            sums: contiguous float64 tensor of that length on the templates' device, overwritten.
            nonfinite: the same, overwritten.
        """
        if len(tensors) != self._count:
            raise ValueError(f'expected {self._count} tensors, got {len(tensors)}')
        self._path.measure(tensors, sums, nonfinite)
