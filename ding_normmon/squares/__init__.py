r"""Exact and fast sums of squares of many tensors: small ones in stacks of their shape, large ones where they lie.

For every tensor :math:`x` of a fixed-length list (the parameters of a model, or their gradients)

.. math:: s = \sum_{i:\,|x_i| < \infty} x_i^2, \qquad m = \#\{i : x_i \text{ is NaN or infinite}\}

are written as float64. The square root of a sum of such :math:`s` is the L2 norm of any group of tensors.

**Accuracy.** A few thousand squares at most are added in float32 and their sums are added in float64: the two-level
summation of Blanchard, Higham & Mary, *A class of fast and accurate summation algorithms*, SIAM J. Sci. Comput.
42(3), A1541-A1557, 2020. Its error bound holds the length of a block and not that of the tensor, so it does not grow
with size; a dot product over :math:`l` SIMD lanes divides it by :math:`l` once more. What is left is systematic
rounding: equal entries round the same way at each addition. Largest relative error of :math:`s` over 3,000 such
tensors, by the instruction set of NumPy's OpenBLAS (the error of the norm is half of it; for entries that differ it
stays under 2.5e-7 everywhere):

======== ========== ======== ========
block    AVX-512    AVX2     SSE
======== ========== ======== ========
1024     2.6e-7     5.1e-7   9.9e-7
2048     5.1e-7     9.7e-7   1.9e-6
4096     9.7e-7     1.9e-6   3.9e-6
======== ========== ======== ========

Large tensors are cut into blocks of :data:`BLOCK`. Tensors of up to 4096 elements are one block each where
:func:`dot_limit` finds the norm exact to 1e-6 on this processor.

**Range.** A float32 block overflows from :math:`|x_i| \approx 1.8 \cdot 10^{19}` on. Below
:math:`|x_i| \approx 10^{-19}` a square is subnormal or zero, an absolute error of at most :math:`2^{-126}` each
(whether or not the processor flushes subnormals); it is invisible as long as :math:`s \ge n\,2^{-126}/u`. So
:math:`n\,2^{-102} \le s < \infty` certifies the fast sum, and a tensor that fails the test (NaN and infinities fail
it too) is measured again in float64, piece by piece and masked. An exact zero is recognised without that second pass.
"""

from ding_normmon.squares.blocks import BLOCK, MOST_IN_FLOAT32, dot_limit
from ding_normmon.squares.careful import careful_sum_of_squares
from ding_normmon.squares.sums import SquareSums

__all__ = ['BLOCK', 'MOST_IN_FLOAT32', 'SquareSums', 'careful_sum_of_squares', 'dot_limit']
