"""The other ranks' part of :mod:`~ding_normmon.ranks.decisions.control`: read rank 0's board, schedule and answer."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

from ding_normmon.core.lost_data import LossCounter
from ding_normmon.ranks.decisions.decision import STRETCH, Decision, read_decision
from ding_normmon.ranks.decisions.schedule import Agenda

__all__ = ['DecisionReader']

logger = logging.getLogger('ding_normmon')


class DecisionReader:
    """Takes every decision on the board once.

    Arguments:
        agenda: of this rank's learner.
        losses: where a board that is none is counted.

    Attributes:
        closed: whether rank 0 has closed its monitor.
    """

    def __init__(self, agenda: Agenda, losses: LossCounter) -> None:
        self.closed = False
        self._agenda = agenda
        self._losses = losses
        self._seen: set[int] = set()
        self._promised: set[int] = set()
        self._answers: list[tuple[int, dict[str, Any]]] = []

    def read_board(self, board: bytes) -> int:
        """Take what rank 0 has posted and return the number of its sign of life; -1 for what is no board."""
        try:
            content = json.loads(board) if board else {}
            decisions = [read_decision(entry) for entry in content.get('decisions', [])]
            withdrawn = {int(number) for number in content.get('withdrawn', [])}
            beat = int(content.get('beat', -1))
            self.closed = bool(content.get('closed', False))
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            self._losses.count('foreign_board', f'what stands on the board is none of rank 0 ({error}); ignored')
            return -1
        with self._agenda.lock:
            self._agenda.withdraw(withdrawn)
            for decision in decisions:
                self._consider(decision)
        return beat

    def take_answers(self) -> list[tuple[int, dict[str, Any]]]:
        """Return what is to be answered, with the iteration of the learner at that time."""
        with self._agenda.lock:
            answers, self._answers = self._answers, []
        return answers

    def _consider(self, decision: Decision) -> None:
        number = decision.number
        if number in self._seen:
            return
        if not decision.committed:
            if number not in self._promised:
                self._promised.add(number)
                self._answer(number, 'promised' if self._agenda.iteration < decision.iteration else 'late')
            return
        self._seen.add(number)
        if self._agenda.add(decision):
            self._answer(number, 'taken')
            return
        self._answer(number, 'late')
        logger.warning(
            'monitor: decision %d for iteration %d arrived in iteration %d; rank 0 has been told',
            number,
            decision.iteration,
            self._agenda.iteration,
        )
        if decision.action is not None and (decision.action == 'stop' or decision.action.startswith(STRETCH)):
            self._agenda.add(replace(decision, iteration=self._agenda.iteration + 1))

    def _answer(self, number: int, said: str) -> None:
        self._answers.append((self._agenda.iteration, {'number': number, 'said': said}))
