"""How sure one can be of a share that was counted."""

from __future__ import annotations

import math

__all__ = ['wilson_interval']


def wilson_interval(successes: int, trials: int, deviations: float = 1.96) -> tuple[float, float]:
    """Return the score interval of a binomial share (Wilson, JASA 22, 1927), 95% by default.

    Example:
        >>> low, high = wilson_interval(9, 10)
        >>> round(low, 3), round(high, 3)
        (0.596, 0.982)
    """
    if not trials:
        return 0.0, 1.0
    share, z = successes / trials, deviations * deviations / trials
    middle = (share + z / 2) / (1 + z)
    half = deviations / (1 + z) * math.sqrt(share * (1 - share) / trials + z / (4 * trials))
    return max(0.0, middle - half), min(1.0, middle + half)
