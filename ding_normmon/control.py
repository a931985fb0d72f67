"""Rank 0's numbered decisions, which every rank applies at the same learner iteration.

The one way back up: rank 0 posts, every rank's background thread reads, the learner thread compares two integers per
step. A decision takes effect right before the learner step of its iteration. What happens when somebody is late:

- A decision that a rank learns of too late is reported by that rank and posted again by rank 0, with twice the lead.
- ``stop``, ``checkpoint`` and how much less often a quantity is measured are two-phase. First every rank promises to
  act at the iteration; only when all have, and early enough, does rank 0 commit. A rank that does not answer within the
  deadline means that nothing happens, and a note in the next record says so. A rank that learns of a *commitment* too
  late stops at its next step, because the others have stopped, and measures as often as they do, but does not write a
  checkpoint, because its weights are those of another iteration.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ding_normmon.losses import LossCounter

__all__ = ['STRETCH', 'TWO_PHASE', 'Control', 'ControlError', 'Decision', 'is_two_phase']

logger = logging.getLogger('ding_normmon')

TWO_PHASE = frozenset({'stop', 'checkpoint'})
"""Actions that happen on all ranks or on none; those that begin with :data:`STRETCH` do too."""

STRETCH = 'stretch '
"""``'stretch plasticity 4'``: measure it four times less often than configured."""

LEAD_SECONDS = 4.0
"""How far ahead a decision is placed: several times the period at which ranks read the board."""

_NEVER = math.inf
_OPEN_DECISIONS = 32


def is_two_phase(action: str | None) -> bool:
    """Tell whether every rank has to promise before rank 0 commits."""
    return action is not None and (action in TWO_PHASE or action.startswith(STRETCH))


class ControlError(ValueError):
    """A decision that cannot be posted."""


@dataclass(frozen=True)
class Decision:
    """What every rank does at one iteration.

    Arguments:
        number: ascending; a decision that is posted again has a new one.
        iteration: it takes effect right before the learner step of this iteration.
        frequency: new schedule, a multiple of the configured one; None leaves it.
        owners: new task ids of every rank, by rank; None leaves them.
        action: name under which callbacks are registered, such as ``'stop'``; None for none.
        committed: whether it may be acted upon; always true for what is not two-phase.
    """

    number: int
    iteration: int
    frequency: int | None = None
    owners: tuple[tuple[int, ...], ...] | None = None
    action: str | None = None
    committed: bool = True


@dataclass
class _Posted:
    decision: Decision
    lead: int
    posted_at: float
    first_posted_at: float
    answered: set[int] = field(default_factory=set)


class Control:
    """Posts decisions (rank 0) and applies them (every rank).

    Arguments:
        rank: this process.
        world_size: number of processes.
        frequency: the configured measuring frequency; schedules are multiples of it.
        losses: where a failing callback is counted.
        deadline: seconds for which a two-phase decision waits for the promise of every rank.

    Attributes:
        iteration: the learner step that has begun last; written by the learner thread.
        next_iteration: where the learner has to call :meth:`reach`; infinite while nothing is to come.

    Example:
        >>> control = Control(rank=0, world_size=1, frequency=10, losses=LossCounter(), deadline=60)
        >>> control.on('stop', lambda decision: print('stop at', decision.iteration))
        >>> control.post(action='stop', iteration=7)
        1
        >>> for iteration in (6, 7):
        ...     control.iteration = iteration
        ...     if iteration >= control.next_iteration:
        ...         control.reach(iteration)
        stop at 7
        >>> control.post(frequency=25)
        Traceback (most recent call last):
            ...
        ding_normmon.control.ControlError: a schedule of 25 is no multiple of the configured monitor_norm_freq, 10
    """

    def __init__(self, rank: int, world_size: int, frequency: int, losses: LossCounter, deadline: float) -> None:
        self.iteration = -1
        self.next_iteration = _NEVER
        self._rank = rank
        self._world_size = world_size
        self._frequency = frequency
        self._losses = losses
        self._deadline = deadline
        self._lock = threading.RLock()
        self._callbacks: dict[str, list[Callable[[Decision], object]]] = {}
        self._scheduled: list[Decision] = []
        self._notes: dict[str, str] = {}
        # Rank 0:
        self._number = 0
        self._beat = 0
        self._posted: dict[int, _Posted] = {}
        self._withdrawn: list[int] = []
        self._heard: dict[int, float] = {}
        self._sample: tuple[float, int] | None = None
        self._rate = 0.0
        # The other ranks:
        self._seen: set[int] = set()
        self._promised: set[int] = set()
        self._answers: list[tuple[int, dict[str, Any]]] = []

    # -- for users -------------------------------------------------------------------------------------------------

    def on(self, action: str, callback: Callable[[Decision], object]) -> None:
        """Call ``callback(decision)`` on this rank's learner thread when ``action`` takes effect.

        ``'schedule'`` and ``'owners'`` are called for decisions that carry a schedule or a new division of tasks.
        """
        self._callbacks.setdefault(action, []).append(callback)

    def post(
        self,
        action: str | None = None,
        *,
        frequency: int | None = None,
        owners: Sequence[Sequence[int]] | None = None,
        iteration: int | None = None,
    ) -> int:
        """Post a decision on rank 0 and return its number; returns at once.

        Arguments:
            action: ``'stop'``, ``'checkpoint'`` (all ranks or none) or any other name that has callbacks.
            frequency: measure every so many iterations from then on.
            owners: the task ids of every rank from then on, by rank.
            iteration: when; by default far enough ahead for every rank to hear of it.

        Raises:
            ControlError: not on rank 0, nothing to decide, no multiple of the configured frequency, too many open
                decisions.
        """
        if self._rank != 0:
            raise ControlError(f'only rank 0 decides; this is rank {self._rank}')
        if action is None and frequency is None and owners is None:
            raise ControlError('a decision needs an action, a frequency or owners')
        if frequency is not None and (frequency <= 0 or frequency % self._frequency):
            raise ControlError(
                f'a schedule of {frequency} is no multiple of the configured monitor_norm_freq, {self._frequency}'
            )
        if owners is not None and len(owners) != self._world_size:
            raise ControlError(f'owners has {len(owners)} entries for {self._world_size} ranks')
        decision = Decision(
            number=0,
            iteration=0,
            frequency=frequency,
            owners=None if owners is None else tuple(tuple(int(task) for task in tasks) for tasks in owners),
            action=action,
            committed=not is_two_phase(action) or self._world_size == 1,
        )
        with self._lock:
            if len(self._posted) >= _OPEN_DECISIONS:
                raise ControlError(f'{_OPEN_DECISIONS} decisions are open; wait until some have been applied')
            now = time.monotonic()
            lead = 1 if self._world_size == 1 else max(4, math.ceil(self._rate * LEAD_SECONDS))
            return self._post(decision, lead, now, now, iteration)

    def take_notes(self) -> dict[str, str]:
        """Return what could not be decided since the last call, as notes of a record."""
        with self._lock:
            notes, self._notes = self._notes, {}
        return notes

    # -- the learner thread ----------------------------------------------------------------------------------------

    def reach(self, iteration: int) -> None:
        """Apply what is due before the learner step of ``iteration``; called once ``next_iteration`` is reached."""
        with self._lock:
            due = [decision for decision in self._scheduled if decision.iteration <= iteration]
            self._scheduled = [decision for decision in self._scheduled if decision.iteration > iteration]
            self._set_next()
        for decision in due:
            topics = [decision.action, decision.frequency and 'schedule', decision.owners and 'owners']
            for topic in filter(None, topics):
                for callback in self._callbacks.get(str(topic), []):
                    try:
                        callback(decision)
                    except Exception as error:
                        self._losses.count(
                            'control', f'the callback for {topic!r} raised {type(error).__name__}: {error}'
                        )

    def _schedule(self, decision: Decision) -> bool:
        """Schedule a decision for the learner; False if its iteration has begun already."""
        self._scheduled.append(decision)
        self._set_next()
        # The learner writes its iteration before it compares, so either it sees the decision or we see its iteration.
        if self.iteration < decision.iteration or decision not in self._scheduled:
            return True
        self._scheduled.remove(decision)
        self._set_next()
        return False

    def _set_next(self) -> None:
        self.next_iteration = min((decision.iteration for decision in self._scheduled), default=_NEVER)

    # -- the background thread of rank 0 ---------------------------------------------------------------------------

    def write_board(self, now: float) -> bytes:
        """Return the board that rank 0 posts at monotonic second ``now``: a sign of life and the open decisions."""
        with self._lock:
            if self._sample is not None and now > self._sample[0]:
                self._rate = (self.iteration - self._sample[1]) / (now - self._sample[0])
            self._sample = (now, self.iteration)
            self._beat += 1
            for posted in list(self._posted.values()):
                self._review(posted, now)
            board = {
                'beat': self._beat,
                'decisions': [asdict(posted.decision) for posted in self._posted.values()],
                'withdrawn': self._withdrawn[-_OPEN_DECISIONS:],
            }
        return json.dumps(board, separators=(',', ':')).encode()

    def hear(self, rank: int, iteration: int, answer: Mapping[str, Any]) -> None:
        """Take what a rank, then at ``iteration``, says to a decision; an answer to nothing is ignored."""
        with self._lock:
            self._heard[rank] = time.monotonic()
            posted = self._posted.get(answer.get('number', -1))
            if posted is None:
                return
            decision = posted.decision
            if answer.get('said') == 'late' and decision.committed and is_two_phase(decision.action):
                self._note(decision, f'rank {rank} learned of it too late, in iteration {iteration}')
                del self._posted[decision.number]
            elif answer.get('said') == 'late':
                self._again(posted, max(iteration, self.iteration), time.monotonic())
            elif answer.get('said') == ('taken' if decision.committed else 'promised'):
                posted.answered.add(rank)

    def _post(
        self, decision: Decision, lead: int, now: float, first: float, iteration: int | None, after: int = -1
    ) -> int:
        self._number += 1
        effective = max(self.iteration, after) + lead if iteration is None else iteration
        decision = replace(decision, number=self._number, iteration=effective)
        if decision.committed and not self._schedule(decision):
            raise ControlError(f'iteration {effective} has begun already; the learner is in {self.iteration}')
        if self._world_size > 1:
            self._posted[decision.number] = _Posted(decision, lead, now, first, {0})
        return decision.number

    def _withdraw(self, posted: _Posted) -> None:
        decision = posted.decision
        del self._posted[decision.number]
        self._withdrawn.append(decision.number)
        if decision in self._scheduled:
            self._scheduled.remove(decision)
            self._set_next()

    def _again(self, posted: _Posted, after: int, now: float) -> None:
        """Post a decision again, twice as far ahead of the rank that is furthest."""
        self._withdraw(posted)
        if now - posted.first_posted_at > self._deadline:
            since = posted.first_posted_at
            silent = [rank for rank in range(1, self._world_size) if self._heard.get(rank, -math.inf) < since]
            silent = silent or sorted(set(range(self._world_size)) - posted.answered)
            self._note(posted.decision, f'ranks {silent} did not acknowledge it within {self._deadline:g} s')
            return
        self._post(posted.decision, 2 * posted.lead, now, posted.first_posted_at, None, after)

    def _review(self, posted: _Posted, now: float) -> None:
        decision = posted.decision
        everybody = len(posted.answered) == self._world_size
        if decision.committed:
            known = everybody or now - posted.posted_at > self._deadline
            if known and self.iteration >= decision.iteration:
                del self._posted[decision.number]
            return
        if decision.iteration - self.iteration <= posted.lead // 2:
            # Too late to commit: a rank could not hear of it before its learner is there.
            self._again(posted, self.iteration, now)
        elif everybody:
            committed = replace(decision, committed=True)
            if self._schedule(committed):
                self._posted[decision.number] = replace(posted, decision=committed, answered={0})
        elif now - posted.first_posted_at > self._deadline:
            self._again(posted, self.iteration, now)

    def _note(self, decision: Decision, why: str) -> None:
        what = decision.action or ('schedule' if decision.frequency else 'owners')
        outcome = 'did not happen everywhere' if decision.committed else 'did not happen'
        self._notes[f'control/{what}'] = f'{what} (decision {decision.number}) {outcome}: {why}'
        logger.warning('monitor: %s', self._notes[f'control/{what}'])

    # -- the background thread of the other ranks ------------------------------------------------------------------

    def read_board(self, board: bytes) -> int:
        """Take what rank 0 has posted and return the number of its sign of life; -1 for what is no board."""
        try:
            content = json.loads(board) if board else {}
            decisions = [_decision(entry) for entry in content.get('decisions', [])]
            withdrawn = {int(number) for number in content.get('withdrawn', [])}
            beat = int(content.get('beat', -1))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            self._losses.count('foreign_board', f'what stands on the board is none of rank 0 ({error}); ignored')
            return -1
        with self._lock:
            self._scheduled = [decision for decision in self._scheduled if decision.number not in withdrawn]
            self._set_next()
            for decision in decisions:
                self._consider(decision)
        return beat

    def take_answers(self) -> list[tuple[int, dict[str, Any]]]:
        """Return what is to be answered, with the iteration of the learner at that time."""
        with self._lock:
            answers, self._answers = self._answers, []
        return answers

    def _consider(self, decision: Decision) -> None:
        number = decision.number
        if number in self._seen:
            return
        if not decision.committed:
            if number not in self._promised:
                self._promised.add(number)
                self._answer(number, 'promised' if self.iteration < decision.iteration else 'late')
            return
        self._seen.add(number)
        if self._schedule(decision):
            self._answer(number, 'taken')
            return
        self._answer(number, 'late')
        logger.warning(
            'monitor: decision %d for iteration %d arrived in iteration %d; rank 0 has been told',
            number,
            decision.iteration,
            self.iteration,
        )
        if decision.action is not None and (decision.action == 'stop' or decision.action.startswith(STRETCH)):
            self._schedule(replace(decision, iteration=self.iteration + 1))

    def _answer(self, number: int, said: str) -> None:
        self._answers.append((self.iteration, {'number': number, 'said': said}))


def _decision(entry: Mapping[str, Any]) -> Decision:
    owners = entry['owners']
    return Decision(
        number=int(entry['number']),
        iteration=int(entry['iteration']),
        frequency=None if entry['frequency'] is None else int(entry['frequency']),
        owners=None if owners is None else tuple(tuple(int(task) for task in tasks) for tasks in owners),
        action=None if entry['action'] is None else str(entry['action']),
        committed=bool(entry['committed']),
    )
