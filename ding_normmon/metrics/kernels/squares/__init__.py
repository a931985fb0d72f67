r"""Exact and fast sums of squares of many tensors.

For every tensor :math:`x` of a fixed-length list (the parameters of a model, or their gradients)

.. math:: s = \sum_{i:\,|x_i| < \infty} x_i^2, \qquad m = \#\{i : x_i \text{ is NaN or infinite}\}

are written as float64. The square root of a sum of such :math:`s` is the L2 norm of any group of tensors.

**Accuracy.** On a CPU (:mod:`ding_normmon.metrics.kernels.native`) every square is added in float64. A square of a
float32 number has 48 significant bits, so it is exact in float64's 53, and :math:`n` additions in 64 lanes err by at
most :math:`n/64 \cdot 2^{-53}` relative: 2e-10 for 1e8 elements. The lanes are added in a fixed order, so a sum is the
same to the last bit on any processor and for any number of threads.

**Range.** Any finite float32 number has a square in float64's range. NaN and infinities make the sum non-finite, and
only then a tensor is read again, number by number.
"""

from ding_normmon.metrics.kernels.squares.careful import careful_sum_of_squares, sum_of_squares
from ding_normmon.metrics.kernels.squares.sums import SquareSums

__all__ = ['SquareSums', 'careful_sum_of_squares', 'sum_of_squares']
