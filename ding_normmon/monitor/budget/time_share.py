"""A share of the time for some work that comes now and then, or several times in a row."""

from __future__ import annotations

import statistics
from collections import deque

__all__ = ['TimeShare']

_KEPT_SECONDS = 2.0
"""For which what is not spent is kept: as much work as that pays for may be done in a row."""


class TimeShare:
    """Tells whether work that takes time may be done, so that it stays under a share of all time.

    What counts is what the work usually takes, the median of its last nine times: now and then most of a time is
    waiting for the learner, who has the interpreter.

    Arguments:
        share: of all time that the work may take.
        now: the time at the beginning, in seconds of any clock.

    Example:
        >>> time_share = TimeShare(share=0.01, now=0.0)
        >>> allowed = []
        >>> for now in (0.0, 0.0, 0.0, 1.0, 2.0, 3.0):
        ...     allowed.append(time_share.allows(now))
        ...     if allowed[-1]:
        ...         time_share.spend(0.016)
        >>> allowed
        [True, True, False, False, True, True]
    """

    def __init__(self, share: float, now: float) -> None:
        self._share = share
        self._most = self._left = share * _KEPT_SECONDS
        self._since = now
        self._times: deque[float] = deque(maxlen=9)

    def allows(self, now: float) -> bool:
        """Tell whether something is left."""
        self._left = min(self._most, self._left + self._share * (now - self._since))
        self._since = now
        return self._left > 0.0

    def spend(self, seconds: float) -> None:
        """Take note that the work was done, and how long it took."""
        self._times.append(seconds)
        self._left -= statistics.median(self._times)
