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
        tasks: global task id to name (``task 3`` if it has none); empty for a single-task policy.
        configuration: the monitor's own, every key with its value.
        figures: what is declared of the figures that records will hold.
        begins_at: the first iteration of this start of the run, None if unknown. Records of earlier starts from there
            on are abandoned, because those iterations are trained and measured again.
        is_resumed: whether the run continues from a checkpoint that contains the monitor's state.
        abandoned: time of the checkpoint and time of the resumption, in seconds since 1970; what an earlier start did
            in between is done again. None if unknown.
        run: a name shared by all starts of the run; empty if unknown.

    Example:
        >>> RunDescription({0: 'Pong', 1: 'Boxing'}).tasks[1]
        'Boxing'
    """

    tasks: Mapping[int, str] = field(default_factory=dict)
    configuration: Mapping[str, Any] = field(default_factory=dict)
    figures: Figures = field(default_factory=Figures, compare=False)
    begins_at: int | None = None
    is_resumed: bool = False
    abandoned: tuple[float, float] | None = None
    run: str = ''


class Destination(Protocol):
    """Receives every finished record, on rank 0, in a background thread, in the order of iterations.

    A destination that needs the tasks' names also has ``begin(description: RunDescription)``, which is called once, in
    the same thread: of a resumed run when its checkpoint is loaded, else at the first learner step. A
    destination with a true attribute ``only_findings`` gets only the records that hold findings. Findings of a step
    between two published records come with the next published one; to such a destination, and to one with a true
    attribute ``takes_between``, they come at once, with the incidents, in a record without figures. An exception is
    logged once and counted; later records still arrive.
    """

    def publish(self, record: Record) -> None:
        """Receive one record."""
        ...

    def close(self) -> None:
        """Flush; called once, after the last record."""
        ...
