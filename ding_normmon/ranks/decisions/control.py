"""Rank 0's numbered decisions, which every rank applies at the same learner iteration.

All other data flows from the ranks to rank 0; decisions are the only data that flows back. Rank 0 posts a decision,
every rank's background thread reads it, and the learner thread compares two integers per step. A decision takes effect
right before the learner step of its iteration. Late ranks are handled as follows:

- A rank that reads a decision too late reports this, and rank 0 posts the decision again with twice the lead.
- ``stop``, ``checkpoint`` and how often something is measured are two-phase. First every rank promises to act at the
  iteration; only if all promise early enough does rank 0 commit. If a rank does not answer within the deadline, nothing
  happens, and the next record has a note about it. A rank that reads a *commitment* too late stops at its next step,
  because the others have stopped, and measures as often as they do, but writes no checkpoint, because its weights
  are those of another iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ding_normmon.core.lost_data import LostData
from ding_normmon.ranks.decisions.decision import STRETCH, TWO_PHASE, WATCH, ControlError, Decision, is_two_phase
from ding_normmon.ranks.decisions.follower import Follower
from ding_normmon.ranks.decisions.leader import Leader
from ding_normmon.ranks.decisions.schedule import DecisionSchedule

__all__ = ['STRETCH', 'TWO_PHASE', 'WATCH', 'Control', 'ControlError', 'Decision', 'is_two_phase']


class Control:
    """Posts decisions (rank 0) and applies them (every rank).

    Arguments:
        rank: this process.
        world_size: number of processes.
        frequency: the configured ``monitor_norm_freq``. 0: the monitor is switched off, and nothing can be posted.
        lost_data: counts callbacks that fail.
        deadline: seconds that a two-phase decision waits for the promise of every rank.

    Attributes:
        schedule: pending decisions; the learner writes ``schedule.iteration`` and calls :meth:`reach` once
            ``schedule.next_iteration`` is reached.

    Example:
        >>> control = Control(rank=0, world_size=1, frequency=10, lost_data=LostData(), deadline=60)
        >>> control.on('stop', lambda decision: print('stop at', decision.iteration))
        >>> control.post(action='stop', iteration=7)
        1
        >>> for iteration in (6, 7):
        ...     control.schedule.iteration = iteration
        ...     if iteration >= control.schedule.next_iteration:
        ...         control.reach(iteration)
        stop at 7
        >>> Control(rank=1, world_size=2, frequency=10, lost_data=LostData(), deadline=60).post('stop')
        Traceback (most recent call last):
            ...
        ding_normmon.ranks.decisions.decision.ControlError: only rank 0 can post decisions; this is rank 1
    """

    def __init__(self, rank: int, world_size: int, frequency: int, lost_data: LostData, deadline: float) -> None:
        self.schedule = DecisionSchedule()
        self._rank = rank
        self._world_size = world_size
        self._frequency = frequency
        self._lost = lost_data
        self._callbacks: dict[str, list[Callable[[Decision], object]]] = {}
        self._leader = Leader(world_size, self.schedule, deadline)
        self._follower = Follower(self.schedule, lost_data)

    # -- for users -------------------------------------------------------------------------------------------------

    def on(self, action: str, callback: Callable[[Decision], object]) -> None:
        """Call ``callback(decision)`` on this rank's learner thread when ``action`` takes effect.

        Any name is allowed; ``'stop'`` and ``'checkpoint'`` happen on all ranks or on none.
        """
        self._callbacks.setdefault(action, []).append(callback)

    def has_callback(self, action: str) -> bool:
        """Return whether this rank has a callback for an action."""
        return bool(self._callbacks.get(action))

    def post(self, action: str, *, iteration: int | None = None) -> int:
        """Post a decision on rank 0 and return its number; returns at once.

        Arguments:
            action: ``'stop'``, ``'checkpoint'`` (all ranks or none) or any other name that has callbacks.
            iteration: when it takes effect; by default far enough ahead for every rank to read it in time.

        Raises:
            ControlError: not on rank 0, the monitor is switched off, no action, too many open decisions.
        """
        if self._rank != 0:
            raise ControlError(f'only rank 0 can post decisions; this is rank {self._rank}')
        if self._frequency == 0:
            raise ControlError('the monitor is switched off (monitor_norm_freq=0); no rank would read a decision')
        if not isinstance(action, str) or not action:
            raise ControlError(f'the action of a decision must be the name of its callbacks, got {action!r}')
        committed = not is_two_phase(action) or self._world_size == 1
        return self._leader.post(Decision(0, 0, action, committed), iteration)

    def take_notes(self) -> dict[str, str]:
        """Return the decisions that failed since the last call, as notes for a record."""
        return self._leader.take_notes()

    # -- the learner thread ----------------------------------------------------------------------------------------

    @property
    def iteration(self) -> int:
        """The newest learner step that has begun."""
        return self.schedule.iteration

    def reach(self, iteration: int) -> None:
        """Apply the decisions that are due before the learner step of ``iteration``."""
        for decision in self.schedule.take_due(iteration):
            for callback in self._callbacks.get(decision.action, []):
                try:
                    callback(decision)
                except Exception as error:
                    what = f'the callback for {decision.action!r} raised {type(error).__name__}: {error}'
                    self._lost.count('control', what)

    # -- the background thread -------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether rank 0 has closed its monitor."""
        return self._follower.closed

    def write_bulletin(self, now: float, closing: bool = False) -> bytes:
        """Return the bulletin that rank 0 posts at monotonic time ``now``, in seconds."""
        return self._leader.write_bulletin(now, closing)

    def receive_answer(self, rank: int, iteration: int, answer: Mapping[str, Any]) -> None:
        """Process, on rank 0, the answer to a decision from a rank whose learner was at ``iteration``."""
        self._leader.receive_answer(rank, iteration, answer)

    def read_bulletin(self, bulletin: bytes) -> int:
        """Process what rank 0 has posted; return its heartbeat count, or -1 for bytes that are not a bulletin."""
        return self._follower.read_bulletin(bulletin)

    def take_answers(self) -> list[tuple[int, dict[str, Any]]]:
        """Return this rank's new answers, each with the iteration its learner was at."""
        return self._follower.take_answers()
