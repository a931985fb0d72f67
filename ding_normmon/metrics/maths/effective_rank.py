r"""How many dimensions a set of vectors fills: effective, stable and feature rank, from second moments that add up.

Of vectors :math:`x_1 \dots x_n \in R^E`, the rows of :math:`X`, only :math:`M = X^\top X` is kept. The second moments
of two sets add up to that of their union, so tasks and ranks merge exactly, and the singular values of :math:`X` are
the square roots of the eigenvalues of :math:`M`. Nothing is centred. With singular values
:math:`\sigma_1 \ge \sigma_2 \ge \dots` and :math:`p_k = \sigma_k / \sum_j \sigma_j`:

- effective rank :math:`\exp(-\sum_k p_k \log p_k)` (Roy & Vetterli, "The effective rank: A measure of effective
  dimensionality", EUSIPCO 2007): :math:`r` for :math:`r` equal singular values;
- stable rank :math:`\sum_k \sigma_k^2 / \sigma_1^2` (Rudelson & Vershynin, "Sampling from large matrices", JACM 2007):
  how many directions carry as much energy as the largest;
- feature rank: the smallest :math:`k` with :math:`\sum_{j \le k} \sigma_j \ge (1 - \delta) \sum_j \sigma_j`,
  :math:`\delta = 0.01` (Kumar et al., "Implicit under-parameterization inhibits data-efficient deep reinforcement
  learning", ICLR 2021).

**Accuracy.** The second moment is taken in float64. Squaring costs half of the digits: singular values below
:math:`\sqrt{E \cdot 2.2 \cdot 10^{-16}}\,\sigma_1` (1.2e-7 at E = 64) cannot be told from rounding and count as 0.

**Many features.** Where :math:`E` is larger than allowed, vectors are first projected to :math:`d` dimensions by a
fixed matrix with orthonormal columns times :math:`\sqrt{E/d}`, the same on every rank, so the moments still add up
exactly. A vector keeps its squared length on average, and the singular values of vectors that fill :math:`r \ll d`
dimensions stay within about :math:`\sqrt{r/d}` of theirs (Halko, Martinsson & Tropp, "Finding structure with
randomness", SIAM Review 2011). :func:`projection_error` is that figure with the effective rank for :math:`r`.

Worked numbers: singular values (3, 1) are p = (0.75, 0.25), effective rank exp(0.5623) = 1.755, stable rank 10/9.

>>> sigma = np.array([3.0, 1.0])
>>> round(effective_rank(sigma), 3), round(stable_rank(sigma), 3), feature_rank(sigma)
(1.755, 1.111, 2)
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = [
    'effective_rank',
    'feature_rank',
    'packed_moment',
    'packed_moments',
    'projection',
    'projection_error',
    'singular_values',
    'size_under',
    'stable_rank',
]

Array = npt.NDArray[np.float64]


def size_under(entries: int) -> int:
    """Return the largest d whose second moment has at most so many entries, d (d + 1) / 2.

    >>> [size_under(entries) for entries in (1, 2, 3, 5, 6)]
    [1, 1, 2, 2, 3]
    """
    return max(1, (math.isqrt(8 * entries + 1) - 1) // 2)


def packed_moment(vectors: Tensor) -> Tensor:
    """Return the upper triangle of the second moment of the rows of (n, d), float64, d (d + 1) / 2 entries.

    It stays on the device and waits for nothing; rows with a NaN or infinite entry count as 0.

    >>> packed_moment(torch.tensor([[1., 2.], [0., 1.]])).tolist()
    [1.0, 2.0, 5.0]
    """
    numbers = vectors.to(torch.float64)
    numbers = torch.where(torch.isfinite(numbers).all(dim=1, keepdim=True), numbers, 0.0)
    return packed_moments(numbers[None])[0]


def packed_moments(vectors: Tensor) -> Tensor:
    """Return the same of several sets of finite vectors at once, float64, (sets, n, d) to (sets, d (d + 1) / 2)."""
    size = vectors.shape[2]
    rows, columns = torch.triu_indices(size, size, device=vectors.device)
    return (vectors.mT @ vectors)[:, rows, columns]


def singular_values(packed: Array) -> Array:
    """Return the singular values, descending, of the vectors whose packed second moment this is.

    >>> singular_values(np.array([9.0, 0.0, 1.0])).tolist()
    [3.0, 1.0]
    """
    size = size_under(len(packed))
    moment = np.zeros((size, size))
    moment[np.triu_indices(size)] = packed
    # `eigvalsh` reads one triangle.
    squares = np.linalg.eigvalsh(moment, UPLO='U')[::-1]
    floor = max(float(squares[0]), 0.0) * size * np.finfo(np.float64).eps
    return np.sqrt(np.where(squares > floor, squares, 0.0))


def effective_rank(sigma: Array) -> float:
    """Return Roy and Vetterli's effective rank; NaN if all singular values are 0."""
    total = float(sigma.sum())
    if not total > 0:
        return math.nan
    share = sigma[sigma > 0] / total
    return math.exp(-float(np.dot(share, np.log(share))))


def stable_rank(sigma: Array) -> float:
    """Return the squared Frobenius norm over the squared spectral norm; NaN if all singular values are 0."""
    largest = float(sigma.max(initial=0.0))
    return float(np.square(sigma / largest).sum()) if largest > 0 else math.nan


def feature_rank(sigma: Array) -> int:
    """Return how many of the largest singular values make up 99% of their sum; 0 if all are 0."""
    total = float(sigma.sum())
    if not total > 0:
        return 0
    # The last entry of a cumulative sum may differ from the sum in the last digit.
    return min(int(np.searchsorted(np.cumsum(np.sort(sigma)[::-1]), 0.99 * total)) + 1, len(sigma))


@lru_cache(maxsize=4)
def projection(features: int, dimensions: int) -> Array:
    """Return the fixed (features, dimensions) matrix with which too many features are made fewer; no random state is
    touched, and every process gets the same.

    >>> matrix = projection(6, 2)
    >>> bool(np.allclose(matrix.T @ matrix, 3 * np.eye(2)))
    True
    """
    normal = np.random.Generator(np.random.PCG64([20210504, features, dimensions])).standard_normal
    orthonormal, triangle = np.linalg.qr(normal((features, dimensions)))
    # With positive signs on the diagonal the factor is unique, whichever LAPACK computed it.
    return np.asarray(orthonormal * np.sign(np.diag(triangle)) * math.sqrt(features / dimensions))


def projection_error(rank: float, features: int, dimensions: int) -> float:
    """Return the relative error to expect of singular values after a projection; 0 if there was none.

    >>> projection_error(4.0, 768, 256), projection_error(4.0, 64, 64)
    (0.125, 0.0)
    """
    return math.sqrt(rank / dimensions) if dimensions < features else 0.0
