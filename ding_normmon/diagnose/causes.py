"""What came first: a fault of one task is soon seen in shared parts, in other tasks, and at every later stage."""

from __future__ import annotations

from dataclasses import dataclass

from ding_normmon.core.figure import STAGES
from ding_normmon.diagnose.rule import Sign
from ding_normmon.diagnose.window import Window

__all__ = ['Causes']

SLACK = 4
"""Records within which two departures count as simultaneous."""

EPISODE = 40
"""After so many records a departure explains nothing new."""

_OF_THE_MODEL = STAGES[2:]
_REPLACED = 1.5
_STRONGER = 1.3
_HEADS_BEFORE_SHARED = 0.4
"""One task counts as the cause of what shared parts do at the same stage if it has gone at least so far."""


@dataclass(frozen=True)
class _Beginning:
    """Where it began with one task, or with what all share.

    Arguments:
        stage: position of the earliest stage.
        since: iteration at which that stage left its past.
        strength: of the strongest departure at that stage.
    """

    stage: float
    since: int
    strength: float


class Causes:
    """Tells whether a sign follows from something else that has departed.

    Of two owners that left at the same time, the one at the earlier stage is the cause (data, targets, losses, outputs,
    gradients, steps, weights), at the same stage the stronger one; else the one that left first.

    Arguments:
        window: the run.
    """

    def __init__(self, window: Window) -> None:
        self._window = window
        self._record = -1
        self._beginnings: dict[int | None, _Beginning] = {}

    def follows(self, sign: Sign) -> bool:
        """Return whether a sign of a stage follows from another task's, or from what all tasks share."""
        if not sign.stage or sign.since is None:
            return False
        owner = sign.tasks[0] if sign.tasks else None
        own = _Beginning(STAGES.index(sign.stage), sign.since, sign.strength)
        own = min(own, self._current().get(owner, own), key=lambda beginning: beginning.stage)
        gap = self._window.gap
        for other, its in self._current().items():
            if other == owner or its.since < self._window.iteration - EPISODE * gap:
                continue
            if self._is_cause(its, other, own, owner, SLACK * gap):
                return True
        return False

    @staticmethod
    def _is_cause(its: _Beginning, other: int | None, own: _Beginning, owner: int | None, slack: int) -> bool:
        if abs(its.since - own.since) > slack:
            return its.since < own.since and its.stage <= own.stage
        if its.stage != own.stage:
            return its.stage < own.stage
        if owner is None:
            return its.strength > _HEADS_BEFORE_SHARED * own.strength
        if other is None:
            return own.strength <= _HEADS_BEFORE_SHARED * its.strength
        return its.strength > _STRONGER * own.strength

    def _current(self) -> dict[int | None, _Beginning]:
        if self._record != self._window.points.records:
            self._record, self._beginnings = self._window.points.records, {}
            gap = self._window.gap
            departed = self._window.departed
            first = min(
                (each.since for each in departed if each.figure.stage in _OF_THE_MODEL and each.strength >= 1),
                default=0,
            )
            for departure in departed:
                _, task, strength = self._window.owner(departure)
                if strength < 1 or departure.age < 2 or self._window.is_summary(departure):
                    continue
                stage: float = STAGES.index(departure.figure.stage)
                if departure.figure.stage == 'weight' and strength > _REPLACED and departure.since <= first + gap:
                    # Training does not move weights so fast: something has written into them.
                    stage = STAGES.index('target') + 0.5
                new, known = _Beginning(stage, departure.since, strength), self._beginnings.get(task)
                if known is None or (stage, -strength) < (known.stage, -known.strength):
                    self._beginnings[task] = new
        return self._beginnings
