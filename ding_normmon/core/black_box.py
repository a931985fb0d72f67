"""The interface of a black box, which keeps the latest measurements even if the process is killed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ding_normmon.core.record import Record

__all__ = ['BlackBox']


class BlackBox(Protocol):
    """Keeps the measurements of one rank. Every method returns at once; a background thread writes.

    Attributes:
        processor_time: seconds of processor time that its thread has taken.
        known_folder: where it is, as far as that is known before the first step.
    """

    processor_time: float
    known_folder: Path | None

    def begin(self, about: Mapping[str, Any], lost: Callable[[str], object]) -> None:
        """Set the description of the run and the function that counts losses; called again when groups change.

        Arguments:
            about: plain values: rank, tasks, configuration; ``session``, the same on all ranks of one start; ``paths``,
                the parameters of each group by its key; and ``folder``, where rank 0 keeps the run's files, for a rank
                that knows none.
            lost: called with a sentence on what could not be written.
        """
        ...

    def keep_own(self, make: Callable[[], Any]) -> None:
        """Keep the rows of this rank for one step; ``make`` returns their batch."""
        ...

    def keep_record(self, record: Record, parameters: Mapping[str, float]) -> None:
        """Keep the figures of all ranks (on rank 0), and the norms of single parameters."""
        ...

    def keep_event(self, iteration: int, event: Mapping[str, Any]) -> None:
        """Keep an event, such as an exception."""
        ...

    def close(self, timeout: float) -> None:
        """Write everything that waits, for at most ``timeout`` seconds, and mark the run as properly ended."""
        ...
