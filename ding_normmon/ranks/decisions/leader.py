"""Rank 0's part of :mod:`~ding_normmon.ranks.decisions.control`: write bulletins, process the answers."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ding_normmon.ranks.decisions.decision import ControlError, Decision, is_two_phase
from ding_normmon.ranks.decisions.schedule import DecisionSchedule

__all__ = ['LEAD_SECONDS', 'Leader']

logger = logging.getLogger('ding_normmon')

LEAD_SECONDS = 4.0
"""How far ahead a decision takes effect: several times the period at which ranks read bulletins."""

_OPEN_DECISIONS = 32


@dataclass
class _Posted:
    decision: Decision
    lead: int
    posted_at: float
    first_posted_at: float
    answered: set[int] = field(default_factory=set)


class Leader:
    """Posts decisions, and keeps posting each one until every rank has taken it.

    Arguments:
        world_size: number of processes.
        schedule: schedule of rank 0's learner.
        deadline: seconds that a two-phase decision waits for the promise of every rank.
    """

    def __init__(self, world_size: int, schedule: DecisionSchedule, deadline: float) -> None:
        self._world_size = world_size
        self._schedule = schedule
        self._deadline = deadline
        self._number = 0
        self._beat = 0
        self._posted: dict[int, _Posted] = {}
        self._withdrawn: list[int] = []
        self._last_answer_at: dict[int, float] = {}
        self._sample: tuple[float, int] | None = None
        self._rate = 0.0
        self._notes: dict[str, str] = {}

    def post(self, decision: Decision, iteration: int | None) -> int:
        """Post a decision for ``iteration`` (None: far enough ahead for every rank) and return its number."""
        with self._schedule.lock:
            if len(self._posted) >= _OPEN_DECISIONS:
                raise ControlError(f'{_OPEN_DECISIONS} decisions are open; wait until some have been applied')
            now = time.monotonic()
            lead = 1 if self._world_size == 1 else max(4, math.ceil(self._speed(now) * LEAD_SECONDS))
            return self._post(decision, lead, now, now, iteration)

    def take_notes(self) -> dict[str, str]:
        """Return notes on the decisions that failed since the last call."""
        with self._schedule.lock:
            notes, self._notes = self._notes, {}
        return notes

    def write_bulletin(self, now: float, closing: bool = False) -> bytes:
        """Return the bulletin for monotonic time ``now`` in seconds: a heartbeat and the open decisions."""
        with self._schedule.lock:
            self._rate = self._speed(now)
            self._sample = (now, self._schedule.iteration)
            self._beat += 1
            for posted in list(self._posted.values()):
                self._review(posted, now)
            bulletin = {
                'beat': self._beat,
                'decisions': [asdict(posted.decision) for posted in self._posted.values()],
                'withdrawn': self._withdrawn[-_OPEN_DECISIONS:],
                'closed': closing,
            }
        return json.dumps(bulletin, separators=(',', ':')).encode()

    def receive_answer(self, rank: int, iteration: int, answer: Mapping[str, Any]) -> None:
        """Process a rank's answer, given at its ``iteration``; answers to unknown decisions are ignored."""
        with self._schedule.lock:
            self._last_answer_at[rank] = time.monotonic()
            posted = self._posted.get(answer.get('number', -1))
            if posted is None:
                return
            decision = posted.decision
            if answer.get('reply') == 'late' and decision.committed and is_two_phase(decision.action):
                self._note(decision, f'rank {rank} read it too late, at iteration {iteration}')
                del self._posted[decision.number]
            elif answer.get('reply') == 'late':
                self._again(posted, max(iteration, self._schedule.iteration), time.monotonic())
            elif answer.get('reply') == ('taken' if decision.committed else 'promised'):
                posted.answered.add(rank)

    def _post(
        self, decision: Decision, lead: int, now: float, first: float, iteration: int | None, after: int = -1
    ) -> int:
        self._number += 1
        effective = max(self._schedule.iteration, after) + lead if iteration is None else iteration
        decision = replace(decision, number=self._number, iteration=effective)
        if decision.committed and not self._schedule.add(decision):
            raise ControlError(f'iteration {effective} has begun already; the learner is at {self._schedule.iteration}')
        if self._world_size > 1:
            self._posted[decision.number] = _Posted(decision, lead, now, first, {0})
        return decision.number

    def _speed(self, now: float) -> float:
        """Return learner steps per second: the rate since the last sample, but at least half the rate before."""
        if self._sample is None or now - self._sample[0] < 0.1:
            return self._rate
        recent = (self._schedule.iteration - self._sample[1]) / (now - self._sample[0])
        return max(recent, self._rate / 2)

    def _again(self, posted: _Posted, after: int, now: float) -> None:
        """Post a decision again with twice the lead, ahead of the furthest rank."""
        number = posted.decision.number
        del self._posted[number]
        self._withdrawn.append(number)
        self._schedule.withdraw({number})
        if now - posted.first_posted_at > self._deadline:
            since = posted.first_posted_at
            silent = [rank for rank in range(1, self._world_size) if self._last_answer_at.get(rank, -math.inf) < since]
            silent = silent or sorted(set(range(self._world_size)) - posted.answered)
            self._note(posted.decision, f'ranks {silent} did not acknowledge it within {self._deadline:g} s')
            return
        self._post(posted.decision, 2 * posted.lead, now, posted.first_posted_at, None, after)

    def _review(self, posted: _Posted, now: float) -> None:
        decision, iteration = posted.decision, self._schedule.iteration
        all_answered = len(posted.answered) == self._world_size
        if decision.committed:
            known = all_answered or now - posted.posted_at > self._deadline
            if known and iteration >= decision.iteration:
                del self._posted[decision.number]
            return
        if decision.iteration - iteration <= posted.lead // 2:
            # Too late to commit: a rank might not read the commitment before its learner gets there.
            self._again(posted, iteration, now)
        elif all_answered:
            committed = replace(decision, committed=True)
            if self._schedule.add(committed):
                self._posted[decision.number] = replace(posted, decision=committed, answered={0})
        elif now - posted.first_posted_at > self._deadline:
            self._again(posted, iteration, now)

    def _note(self, decision: Decision, why: str) -> None:
        what = decision.action
        outcome = 'did not happen everywhere' if decision.committed else 'did not happen'
        self._notes[f'control/{what}'] = f'{what} (decision {decision.number}) {outcome}: {why}'
        logger.warning('monitor: %s', self._notes[f'control/{what}'])
