"""What a destination of records is."""

from __future__ import annotations

from typing import Protocol

from ding_normmon.record import Record

__all__ = ['Destination']


class Destination(Protocol):
    """Receives every finished record, on rank 0, in the monitor's background thread, in the order of iterations.

    An exception is logged once and counted; the next record is offered again.
    """

    def publish(self, record: Record) -> None:
        """Take one record."""
        ...

    def close(self) -> None:
        """Flush; nothing will come after."""
        ...
