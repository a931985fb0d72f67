"""Decisions that wait for their iteration: the background thread puts them in, the learner takes them out."""

from __future__ import annotations

import math
import threading
from collections.abc import Collection

from ding_normmon.ranks.decisions.decision import Decision

__all__ = ['DecisionSchedule']


class DecisionSchedule:
    """Pending decisions of one learner, and the iteration that the learner has reached.

    Attributes:
        iteration: the newest learner step that has begun; written by the learner thread.
        next_iteration: iteration of the next decision; infinite if there is none.
        begins_at: first iteration of this start of the run; None before the first learner step.
        is_resumed: whether a checkpoint set it.
        abandoned: from when to when, in seconds since 1970, a resumed run did what it now does again; None if unknown.
        run: number that all starts of one run share; 0 if it is not known.
        lock: guards everything that the two threads share; reentrant.

    Example:
        >>> schedule = DecisionSchedule()
        >>> schedule.add(Decision(1, 7, 'stop'))
        True
        >>> schedule.iteration = 7
        >>> [decision.number for decision in schedule.take_due(7)], schedule.add(Decision(2, 7, 'stop'))
        ([1], False)
    """

    def __init__(self) -> None:
        self.iteration = -1
        # The first step of all passes by here, which tells where the run begins.
        self.next_iteration: float = -math.inf
        self.begins_at: int | None = None
        self.is_resumed = False
        self.abandoned: tuple[float, float] | None = None
        self.run = 0
        self.lock = threading.RLock()
        self._scheduled: list[Decision] = []

    def add(self, decision: Decision) -> bool:
        """Add a decision; return False, and change nothing, if its iteration has begun already."""
        with self.lock:
            self._scheduled.append(decision)
            self._set_next()
            # The learner writes its iteration before it compares: either it sees the decision, or we its iteration.
            if self.iteration < decision.iteration or decision not in self._scheduled:
                return True
            self._scheduled.remove(decision)
            self._set_next()
            return False

    def resume(self, iteration: int, run: int, abandoned: tuple[float, float] | None = None) -> None:
        """Set the iteration at which a run goes on from a checkpoint, the number of that run, and what is abandoned."""
        with self.lock:
            self.begins_at, self.is_resumed, self.run = iteration, True, run or self.run
            self.abandoned = abandoned
            self._set_next()

    def withdraw(self, numbers: Collection[int]) -> None:
        """Remove decisions that must not be applied."""
        with self.lock:
            self._scheduled = [decision for decision in self._scheduled if decision.number not in numbers]
            self._set_next()

    def take_due(self, iteration: int) -> list[Decision]:
        """Remove and return the decisions that take effect before the learner step of ``iteration``."""
        with self.lock:
            if self.begins_at is None:
                self.begins_at = iteration
            due = [decision for decision in self._scheduled if decision.iteration <= iteration]
            self._scheduled = [decision for decision in self._scheduled if decision.iteration > iteration]
            self._set_next()
        return due

    def _set_next(self) -> None:
        if self.begins_at is not None:
            self.next_iteration = min((decision.iteration for decision in self._scheduled), default=math.inf)
