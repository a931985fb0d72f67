"""The other ranks' part of :mod:`~ding_normmon.ranks.decisions.control`: read bulletins, schedule decisions, answer."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

from ding_normmon.core.lost_data import LostData
from ding_normmon.ranks.decisions.decision import Decision, is_cadence, read_decision
from ding_normmon.ranks.decisions.schedule import DecisionSchedule

__all__ = ['Follower']

logger = logging.getLogger('ding_normmon')


class Follower:
    """Processes every decision of rank 0's bulletins once.

    Arguments:
        schedule: schedule of this rank's learner.
        lost_data: counts bytes that are not a bulletin.

    Attributes:
        closed: whether rank 0 has closed its monitor.
    """

    def __init__(self, schedule: DecisionSchedule, lost_data: LostData) -> None:
        self.closed = False
        self._schedule = schedule
        self._lost = lost_data
        self._seen: set[int] = set()
        self._promised: set[int] = set()
        self._answers: list[tuple[int, dict[str, Any]]] = []

    def read_bulletin(self, bulletin: bytes) -> int:
        """Process what rank 0 has posted; return its heartbeat count, or -1 for bytes that are not a bulletin."""
        try:
            content = json.loads(bulletin) if bulletin else {}
            decisions = [read_decision(fields) for fields in content.get('decisions', [])]
            withdrawn = {int(number) for number in content.get('withdrawn', [])}
            beat = int(content.get('beat', -1))
            self.closed = bool(content.get('closed', False))
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            self._lost.count('foreign_board', f'a bulletin that is not from rank 0 was ignored ({error})')
            return -1
        with self._schedule.lock:
            self._schedule.withdraw(withdrawn)
            for decision in decisions:
                self._consider(decision)
        return beat

    def take_answers(self) -> list[tuple[int, dict[str, Any]]]:
        """Return the new answers, each with the iteration its learner was at."""
        with self._schedule.lock:
            answers, self._answers = self._answers, []
        return answers

    def _consider(self, decision: Decision) -> None:
        number = decision.number
        if number in self._seen:
            return
        if not decision.committed:
            if number not in self._promised:
                self._promised.add(number)
                self._answer(number, 'promised' if self._schedule.iteration < decision.iteration else 'late')
            return
        self._seen.add(number)
        if self._schedule.add(decision):
            self._answer(number, 'taken')
            return
        self._answer(number, 'late')
        logger.warning(
            'monitor: decision %d for iteration %d arrived late, at iteration %d; reported to rank 0',
            number,
            decision.iteration,
            self._schedule.iteration,
        )
        if decision.action == 'stop' or is_cadence(decision.action):
            self._schedule.add(replace(decision, iteration=self._schedule.iteration + 1))

    def _answer(self, number: int, reply: str) -> None:
        self._answers.append((self._schedule.iteration, {'number': number, 'reply': reply}))
