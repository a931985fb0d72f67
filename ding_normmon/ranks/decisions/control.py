"""Rank 0's numbered decisions, which every rank applies at the same learner iteration.

The one way back up: rank 0 posts, every rank's background thread reads, the learner thread compares two integers per
step. A decision takes effect right before the learner step of its iteration. What happens when somebody is late:

- A decision that a rank learns of too late is reported by that rank and posted again by rank 0, with twice the lead.
- ``stop``, ``checkpoint`` and how much less often a metric is measured are two-phase. First every rank promises to
  act at the iteration; only when all have, and early enough, does rank 0 commit. A rank that does not answer within the
  deadline means that nothing happens, and a note in the next record says so. A rank that learns of a *commitment* too
  late stops at its next step, because the others have stopped, and measures as often as they do, but does not write a
  checkpoint, because its weights are those of another iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ding_normmon.core.lost_data import LostData
from ding_normmon.ranks.decisions.decision import STRETCH, TWO_PHASE, ControlError, Decision, is_two_phase
from ding_normmon.ranks.decisions.follower import Follower
from ding_normmon.ranks.decisions.leader import Leader
from ding_normmon.ranks.decisions.schedule import DecisionSchedule

__all__ = ['STRETCH', 'TWO_PHASE', 'Control', 'ControlError', 'Decision', 'is_two_phase']


class Control:
    """Posts decisions (rank 0) and applies them (every rank).

    Arguments:
        rank: this process.
        world_size: number of processes.
        frequency: the configured measuring frequency. 0: the monitor is switched off, and nothing can be posted.
        lost_data: where a failing callback is counted.
        deadline: seconds for which a two-phase decision waits for the promise of every rank.

    Attributes:
        schedule: what is to come; the learner writes ``schedule.iteration`` and calls :meth:`reach` where
            ``schedule.next_iteration`` says so.

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
        ding_normmon.ranks.decisions.decision.ControlError: only rank 0 decides; this is rank 1
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

        The name is the user's, but for ``'stop'`` and ``'checkpoint'``, which happen on all ranks or on none.
        """
        self._callbacks.setdefault(action, []).append(callback)

    def is_heard(self, action: str) -> bool:
        """Tell whether anything is registered for an action on this rank."""
        return bool(self._callbacks.get(action))

    def post(self, action: str, *, iteration: int | None = None) -> int:
        """Post a decision on rank 0 and return its number; returns at once.

        Arguments:
            action: ``'stop'``, ``'checkpoint'`` (all ranks or none) or any other name that has callbacks.
            iteration: when; by default far enough ahead for every rank to hear of it.

        Raises:
            ControlError: not on rank 0, the monitor is switched off, no action, too many open decisions.
        """
        if self._rank != 0:
            raise ControlError(f'only rank 0 decides; this is rank {self._rank}')
        if self._frequency == 0:
            raise ControlError('the monitor is switched off (monitor_norm_freq=0); no rank would hear of a decision')
        if not isinstance(action, str) or not action:
            raise ControlError(f'a decision needs an action, the name of its callbacks; got {action!r}')
        committed = not is_two_phase(action) or self._world_size == 1
        return self._leader.post(Decision(0, 0, action, committed), iteration)

    def take_notes(self) -> dict[str, str]:
        """Return what could not be decided since the last call, as notes of a record."""
        return self._leader.take_notes()

    # -- the learner thread ----------------------------------------------------------------------------------------

    @property
    def iteration(self) -> int:
        """The learner step that has begun last."""
        return self.schedule.iteration

    def reach(self, iteration: int) -> None:
        """Apply what is due before the learner step of ``iteration``, as ``schedule.next_iteration`` announced."""
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
        """Return what rank 0 posts at monotonic second ``now``."""
        return self._leader.write_bulletin(now, closing)

    def hear(self, rank: int, iteration: int, answer: Mapping[str, Any]) -> None:
        """Take, on rank 0, what a rank that was at ``iteration`` says to a decision."""
        self._leader.hear(rank, iteration, answer)

    def read_bulletin(self, board: bytes) -> int:
        """Take what rank 0 has posted; return the number of its sign of life, -1 for what is no board."""
        return self._follower.read_bulletin(board)

    def take_answers(self) -> list[tuple[int, dict[str, Any]]]:
        """Return what this rank answers, with the iteration its learner was in."""
        return self._follower.take_answers()
