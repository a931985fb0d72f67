"""Passes records to one destination in a background thread, so that a stuck disk blocks nothing else."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from ding_normmon.core.destination import Destination, RunDescription
from ding_normmon.core.lost_data import LostData
from ding_normmon.core.record import Record

__all__ = ['DestinationWorker']

_MOST = 64
"""Records that may wait; beyond that the oldest is dropped."""

_STUCK_SECONDS = 2.0
"""So long takes no record that is only one of many."""

_MANY = 8
"""Queue length at which records are passed on without waiting for :meth:`DestinationWorker.flush`."""


class DestinationWorker:
    """A bounded queue and a background thread in front of one destination.

    A destination may raise an exception, which is logged once and counted, or never return: a tensorboardX writer whose
    own thread has died on a full disk blocks its caller for ever. Both lose records of this destination only.

    Arguments:
        destination: receives the records.
        lost_data: counts lost records.
        description: describes the run, for a destination with a ``begin``.

    Attributes:
        takes_between: whether findings and incidents of watched steps come at once, in a record of their own.

    Example:
        >>> from ding_normmon.core.record import Record
        >>> class Printer:
        ...     def publish(self, record):
        ...         print('iteration', record.iteration)
        ...     def close(self):
        ...         print('closed')
        >>> worker = DestinationWorker(Printer(), LostData())
        >>> worker.enqueue(Record(5))
        >>> worker.close(timeout=5)
        iteration 5
        closed
    """

    def __init__(
        self,
        destination: Destination,
        lost_data: LostData,
        description: Callable[[], RunDescription] = RunDescription,
    ) -> None:
        self._description = description
        self._destination = destination
        self._lost = lost_data
        self._only_findings = bool(getattr(destination, 'only_findings', False))
        self.takes_between = self._only_findings or bool(getattr(destination, 'takes_between', False))
        self._name = type(destination).__name__
        self._queue: deque[Record] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._is_to_begin = False
        self._has_begun = threading.Event()
        self._busy_since: float | None = None
        self._thread: threading.Thread | None = None

    def begin(self, timeout: float = 0.0) -> None:
        """Describe the run to the destination before there is a record; wait for it at most ``timeout`` seconds."""
        with self._wake:
            self._is_to_begin = True
            self._start()
            self._wake.notify()
        self._has_begun.wait(timeout)

    def enqueue(self, record: Record) -> None:
        """Queue a record and return at once; it is passed on at :meth:`flush`, or when several records wait."""
        if self._only_findings and not record.findings:
            return
        with self._wake:
            if len(self._queue) >= _MOST:
                self._queue.popleft()
                self._lose(f'has {_MOST} records waiting; the oldest was dropped. {self._stuck()}')
            self._queue.append(record)
        if len(self._queue) >= _MANY:
            self.flush()

    def flush(self) -> None:
        """Start passing on the queued records and return at once.

        Call it after the last of several records: threads that alternate record by record compete for the interpreter
        lock.
        """
        with self._wake:
            if self._queue:
                self._start()
            self._wake.notify()

    def close(self, timeout: float) -> None:
        """Pass on the queued records and close the destination, for at most ``timeout`` seconds."""
        with self._wake:
            self._closing = True
            thread = self._start()
            self._wake.notify()
        thread.join(timeout)
        if thread.is_alive():
            amount = len(self._queue) + 1
            self._lose(f'did not take {amount} records within {timeout:g} s of closing. {self._stuck()}', amount)

    def _start(self) -> threading.Thread:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f'ding_normmon {self._name}', daemon=True)
            self._thread.start()
        return self._thread

    def _stuck(self) -> str:
        """Return why records wait: one that takes for ever, or too many of them."""
        since = self._busy_since
        busy = 0.0 if since is None else time.monotonic() - since
        if busy >= _STUCK_SECONDS:
            return f'It has been busy with one record for {busy:.0f} s: is its disk full, or very slow?'
        return 'It takes them more slowly than they come; a larger monitor_norm_freq makes fewer'

    def _lose(self, what: str, amount: int = 1) -> None:
        self._lost.count(f'destination_{self._name}', f'{self._name} {what}', amount)

    def _begin(self) -> None:
        begin = getattr(self._destination, 'begin', None)
        try:
            if begin is not None:
                begin(self._description())
        except Exception as error:
            self._lose(f'could not begin ({type(error).__name__}: {error})')
        finally:
            self._has_begun.set()

    def _must_begin(self) -> bool:
        return (self._is_to_begin or bool(self._queue)) and not self._has_begun.is_set()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._queue or self._closing or self._must_begin())
                is_first, is_last = self._must_begin(), self._closing and not self._queue
                record = self._queue.popleft() if self._queue else None
                self._busy_since = time.monotonic()
            try:
                if is_first:
                    self._begin()
                if record is not None:
                    self._destination.publish(record)
                elif is_last:
                    self._destination.close()
            except (Exception, SystemExit, KeyboardInterrupt) as error:
                # Otherwise it would end this thread silently.
                what = 'could not be closed' if record is None else 'could not take a record'
                self._lose(f'{what} ({type(error).__name__}: {error})')
            finally:
                self._busy_since = None
            if is_last:
                return
