"""The interface of destinations, which receive finished records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ding_normmon.core.figures import Figures
from ding_normmon.core.record import Record

__all__ = ['Destination', 'RunDescription']


@dataclass(frozen=True)
class RunDescription:
    """Properties of a run that are known before its first record.

    Arguments:
        tasks: global task id to name (``task 3`` if it has no name); empty for a single-task policy.
        configuration: the monitor's configuration, every key with its value.
        figures: declarations of the figures that records will hold.

    Example:
        >>> RunDescription({0: 'Pong', 1: 'Boxing'}).tasks[1]
        'Boxing'
    """

    tasks: Mapping[int, str] = field(default_factory=dict)
    configuration: Mapping[str, Any] = field(default_factory=dict)
    figures: Figures = field(default_factory=Figures, compare=False)


class Destination(Protocol):
    """Receives every finished record, on rank 0, in a background thread, in the order of iterations.

    A destination that needs the tasks' names also has ``begin(description: RunDescription)``, which is called once, in
    the same thread, before the first record. An exception is logged once and counted; later records still arrive.
    """

    def publish(self, record: Record) -> None:
        """Receive one record."""
        ...

    def close(self) -> None:
        """Flush; called once, after the last record."""
        ...
