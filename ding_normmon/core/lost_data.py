"""Counts of what the monitor loses; the reason is logged once."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping

__all__ = ['LostData']

logger = logging.getLogger('ding_normmon')


class LostData:
    """Counts what is lost, by reason. The first loss of each reason is logged, with what to do about it.

    Example:
        >>> lost_data = LostData()
        >>> lost_data.count('late', 'rank 1 was late', level=logging.DEBUG)
        >>> lost_data.take()
        {'late': 1}
        >>> lost_data.take()
        {}
        >>> lost_data.total['late']
        1
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._new: Counter[str] = Counter()
        self._logged: set[tuple[str, str]] = set()
        self.total: Counter[str] = Counter()

    def count(
        self, reason: str, message: str, amount: int = 1, level: int = logging.WARNING, about: str = ''
    ) -> None:
        """Add ``amount`` to the count of a reason, and log ``message`` the first time.

        Arguments:
            reason: becomes ``monitor/lost/{reason}``.
            message: what happened and what to do about it.
            amount: how much was lost, in the unit that the reason implies.
            level: of the log message.
            about: what was lost, where each such thing has a log message of its own.
        """
        with self._lock:
            self._new[reason] += amount
            self.total[reason] += amount
            first = (reason, about) not in self._logged
            self._logged.add((reason, about))
        if first:
            logger.log(level, 'monitor: %s (logged once; counted as monitor/lost/%s)', message, reason)

    def take(self) -> dict[str, int]:
        """Return what was lost since the last call."""
        with self._lock:
            new, self._new = dict(self._new), Counter()
        return new

    def give_back(self, counts: Mapping[str, int]) -> None:
        """Undo a :meth:`take` whose counts could not be passed on."""
        with self._lock:
            self._new.update(counts)

    def absorb(self, counts: Mapping[str, int]) -> None:
        """Add what another rank lost. The reason is in that rank's own log.

        >>> lost_data = LostData()
        >>> lost_data.absorb({'send': 2})
        >>> lost_data.take()
        {'send': 2}
        """
        # A figure of a record is a float, and no rank loses more than a float can count.
        sane = {reason: min(amount, _MOST) for reason, amount in counts.items()}
        with self._lock:
            self._new.update(sane)
            self.total.update(sane)


_MOST = 1 << 53
