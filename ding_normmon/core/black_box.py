"""The interface of a black box, which keeps what was measured last, whatever ends the process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ding_normmon.core.record import Record

__all__ = ['BlackBox']


class BlackBox(Protocol):
    """Takes what one rank measures; every method returns at once, and the writing is done in the background.

    Attributes:
        processor_time: seconds of processor time that its thread has taken.
    """

    processor_time: float

    def begin(self, about: Mapping[str, Any], lost: Callable[[str], object]) -> None:
        """Take what is known of the run, and whom to tell of what cannot be written; again where groups change.

        Arguments:
            about: plain values: rank, tasks, configuration, and ``paths``, the parameters of each group by its key.
            lost: takes a sentence.
        """
        ...

    def keep_own(self, make: Callable[[], Any]) -> None:
        """Keep what this rank has measured in one step; ``make`` returns the batch of its rows."""
        ...

    def keep_record(self, record: Record, parameters: Mapping[str, float]) -> None:
        """Keep the figures of all ranks (on rank 0), and the norms of single parameters."""
        ...

    def keep_event(self, iteration: int, event: Mapping[str, Any]) -> None:
        """Keep something that happened beside the figures, such as an exception."""
        ...

    def close(self, timeout: float) -> None:
        """Write what waits, for at most so many seconds, and note that the run has ended in order."""
        ...
