"""What waits for a background thread, and for a moment in which its work takes nothing from the learner.

Whatever a background thread does in Python it takes from the learner: they share the interpreter lock, and each time
the lock changes hands both lose tens of microseconds. A backward pass is one long call that seldom needs the lock, so
where the learner announces one (:meth:`WorkQueue.backward_begins`), the entries wait for it. Where learner steps are
short, several entries wait for the same backward pass: code that runs several times in a row finds itself in the
processor's cache, and the lock changes hands as often for four records as for one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ['WorkQueue']

Entry = TypeVar('Entry')

_MOST_PATIENCE = 0.5
"""Seconds after which work is done however busy the learner is."""

_BURST_SECONDS = 0.25
"""For which entries are collected, where they may be: what waits here is lost if the process is killed, and the records
before the end are those that are looked for; a whole second saves little more work."""

_BURST_SIZE = 16
"""Or until there are so many."""


MOST_BYTES = 64 << 20
"""Bytes that may wait, however few entries they are."""


class WorkQueue(Generic[Entry]):
    """A queue between the learner and one background thread, bounded in entries and in bytes.

    Arguments:
        size: entries that may wait; the oldest is dropped beyond that.
        seconds: for which entries are collected before they are taken together; 0 for each at the next good moment.
        size_of: returns the bytes of an entry.
        most_bytes: that may wait; the oldest entries are dropped beyond that, but never the newest.

    Attributes:
        is_closing: whether the last entries are being waited for.
        is_abandoned: whether what is incomplete is to be finished as it is.

    Example:
        >>> queue = WorkQueue(size=2)
        >>> [queue.put(number) for number in (1, 2, 3)]
        [0, 0, 1]
        >>> queue.take(timeout=None)
        [2, 3]
    """

    def __init__(
        self,
        size: int,
        seconds: float = _BURST_SECONDS,
        size_of: Callable[[Entry], int] = lambda _: 0,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._entries: deque[Entry] = deque()
        self._size = size
        self._size_of = size_of
        self._most_bytes = most_bytes
        self._bytes = 0
        self._seconds = seconds
        self._wake = threading.Condition()
        # Whether the thread waits for a good moment, which comes by itself, and need not be woken by an entry.
        self._is_patient = False
        self._announced = -_MOST_PATIENCE
        self._interval = 2 * _MOST_PATIENCE
        self._taken = -_MOST_PATIENCE
        self.is_closing = False
        self.is_abandoned = False

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, entry: Entry) -> int:
        """Add an entry; returns at once, with how many of the oldest ones had to be dropped for it."""
        dropped = 0
        with self._wake:
            self._bytes += self._size_of(entry)
            while self._entries and (len(self._entries) >= self._size or self._bytes > self._most_bytes):
                self._bytes -= self._size_of(self._entries.popleft())
                dropped += 1
            self._entries.append(entry)
            if not self._is_patient:
                self._wake.notify()
        return dropped

    def backward_begins(self) -> None:
        """Announce a call that needs no interpreter lock for a while, as the learner does before its backward pass."""
        now = time.monotonic()
        self._interval, self._announced = now - self._announced, now
        if self._entries and (now >= self._taken + self._seconds or len(self._entries) >= _BURST_SIZE):
            self.flush()

    def flush(self) -> None:
        """Have everything that is here taken now, however busy the learner is."""
        with self._wake:
            self._wake.notify()

    def take(self, timeout: float | None) -> list[Entry]:
        """Return all entries; in the background thread.

        Arguments:
            timeout: seconds to wait for the first one, or for the end; None for as long as it takes.
        """
        with self._wake:
            if not self._entries and not self.is_closing:
                patience = self._patience()
                self._is_patient = patience > 0
                self._wake.wait(timeout if not patience else patience if timeout is None else min(patience, timeout))
                self._is_patient = False
            entries = list(self._entries)
            self._entries.clear()
            self._bytes = 0
            if entries:
                self._taken = time.monotonic()
            return entries

    def _patience(self) -> float:
        """Seconds for which a good moment is worth waiting for: they come step by step, or not at all."""
        now, step = time.monotonic(), min(2 * self._interval, _MOST_PATIENCE)
        if self._interval >= _MOST_PATIENCE or now > self._announced + step:
            return 0.0
        return max(0.0, self._taken + self._seconds - now) + step

    def close(self, abandon: bool = False) -> None:
        """Wake the thread for the last time.

        Arguments:
            abandon: finish also what is incomplete.
        """
        with self._wake:
            self.is_closing = True
            self.is_abandoned = self.is_abandoned or abandon
            self._wake.notify()
