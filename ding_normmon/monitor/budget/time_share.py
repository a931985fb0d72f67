"""Limits occasional work to a share of the time."""

from __future__ import annotations

import statistics
from collections import deque

__all__ = ['TimeShare']

_KEPT_SECONDS = 2.0
"""Unspent time of so many seconds is kept, so that some work may be done several times in a row."""


class TimeShare:
    """Decides whether some work may be done now, so that it stays under a share of all time.

    The median of the last nine durations counts, because a single duration may be mostly waiting for the learner to
    release the interpreter lock.

    Arguments:
        share: share of all time that the work may take.
        now: time at the start, in seconds of any clock.

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
        """Return whether the work may be done now."""
        self._left = min(self._most, self._left + self._share * (now - self._since))
        self._since = now
        return self._left > 0.0

    def spend(self, seconds: float) -> None:
        """Record how long the work took."""
        self._times.append(seconds)
        self._left -= statistics.median(self._times)
