"""What the formulas give, computed in float64 by another way."""

from __future__ import annotations

import numpy as np


def dormant_units(samples: np.ndarray, tau: float) -> list[bool]:
    """Return which units are dormant: Sokar et al., equation 1, one unit at a time in float64; samples (n, H)."""
    means = [float(np.abs(samples[:, unit].astype(np.float64)).mean()) for unit in range(samples.shape[1])]
    average = sum(means) / len(means)
    return [mean <= tau * average if average else True for mean in means]


def ranks(vectors: np.ndarray) -> tuple[float, float, int]:
    """Return effective rank, stable rank and feature rank by the singular value decomposition."""
    sigma = np.linalg.svd(vectors.astype(np.float64), compute_uv=False)
    share = sigma / sigma.sum()
    share = share[share > 0]
    cumulated = np.cumsum(sigma) / sigma.sum()
    srank = next(k for k in range(1, len(sigma) + 1) if cumulated[k - 1] >= 0.99)
    return float(np.exp(-(share * np.log(share)).sum())), float((sigma**2).sum() / sigma[0] ** 2), srank
