"""How often learner steps between two published records are measured: as often as the budget allows."""

from __future__ import annotations

import logging
import statistics
import time
from collections import deque
from collections.abc import Iterator

from ding_normmon.core.config import MonitorConfig
from ding_normmon.ranks.decisions.control import WATCH, Control, ControlError, Decision

__all__ = ['CADENCES', 'Watching', 'cadence_under']

logger = logging.getLogger('ding_normmon')

CADENCES = tuple(2**power for power in range(10))
"""Learner iterations between two watched ones that ``'auto'`` may choose."""

_LOOK = 'look at the clock'
_UNKNOWN_MILLISECONDS, _UNKNOWN_SHARE = 5.0, 0.1
"""Assumed cost of the first measurement, in milliseconds and in learner steps; the larger one counts."""

_USED = 0.7
"""Share of the budget that is used; the rest is for costs that cannot be measured, such as displaced caches."""

_DEFAULT_BUDGET = 0.01
_KNOWN_SECONDS = 1.0
_REST_SECONDS = 10.0
_RETRY_SECONDS = 300.0


def cadence_under(budget: float, cost: float, step: float) -> int:
    """Return how often to measure to stay under a share of the time, as a power of two.

    Arguments:
        budget: share of training time.
        cost: milliseconds of one measurement.
        step: milliseconds of one learner iteration.

    Returns:
        Iterations between two measurements; 0 if all of :data:`CADENCES` cost too much.

    Example:
        >>> cadence_under(0.01, cost=2.0, step=60.0), cadence_under(0.01, 2.0, 0.01)
        (4, 0)
    """
    return next((every for every in CADENCES if cost <= budget * step * every), 0)


class Watching:
    """Decides which learner steps between two published records are measured. All ranks change together.

    Arguments:
        config: has ``watch``, ``budget`` and ``monitor_norm_freq``.
        control: passes the decision on to the other ranks.
        rank: this process; rank 0 decides.

    Attributes:
        every: iterations between two watched ones; 0 if nothing is watched.

    Example:
        >>> from ding_normmon.core.lost_data import LostData
        >>> control = Control(0, 1, 5000, LostData(), 60.0)
        >>> watching = Watching(MonitorConfig(watch=8), control)
        >>> [iteration for iteration in range(20) if watching.is_due(iteration)]
        [0, 8, 16]
    """

    def __init__(self, config: MonitorConfig, control: Control, rank: int = 0) -> None:
        self._is_auto = config.watch == 'auto' and config.monitor_norm_freq > 1
        self._budget = _USED * (config.budget or _DEFAULT_BUDGET)
        self._frequency = config.monitor_norm_freq
        self._control = control
        self._deadline = config.deadline
        # With 'auto' nothing is watched until the duration of a learner step is known.
        self.every = 0 if isinstance(config.watch, str) or config.watch >= self._frequency else config.watch
        self.is_on = self._is_auto or self.every > 0
        self._first, self._looks = (0, 0.0), 0
        self._costs: dict[bool, tuple[deque[float], deque[float]]] = {
            watched: (deque(maxlen=9), deque(maxlen=32)) for watched in (True, False)
        }
        self._times: deque[tuple[int, float]] = deque(maxlen=64)
        self._decided: tuple[int, float] | None = None
        if self._is_auto:
            for cadence in (0, *CADENCES):
                control.on(f'{WATCH}{cadence}', self._take)
            if rank == 0:
                control.on(_LOOK, self._look)
                control.schedule.add(Decision(0, 0, _LOOK))

    @property
    def decided(self) -> int:
        """The cadence that was decided last; it takes effect at a later iteration."""
        return self.every if self._decided is None else self._decided[0]

    def _take(self, decision: Decision) -> None:
        self.every = int(decision.action.removeprefix(WATCH))

    def _look(self, decision: Decision) -> None:
        """Start to watch as soon as the duration of a learner step is known; in the learner's thread.

        The first step compiles and allocates, so it does not count. The distance between looks doubles each time.
        """
        iteration, now = self._control.iteration, time.monotonic()
        ahead, self._looks = 1, self._looks + 1
        if self._looks <= 2:
            self._first = iteration, now
        else:
            begun, since = self._first
            ahead = max(1, iteration - begun)
            step = (now - since) / ahead * 1e3
            cost = self._cost(False) or max(_UNKNOWN_MILLISECONDS, _UNKNOWN_SHARE * step)
            every = cadence_under(self._budget, cost, step)
            if now - since >= _KNOWN_SECONDS and 0 < every < self._frequency:
                self._decide(every, now)
                return
        self._control.schedule.add(Decision(0, iteration + ahead, _LOOK))

    def _decide(self, every: int, now: float) -> bool:
        try:
            self._control.post(f'{WATCH}{every}')
        except ControlError as error:
            logger.debug('monitor: the cadence of watching is decided again with the next record: %s', error)
            return False
        self._decided = (every, now)
        note = f'every {every} iterations are watched' if every else 'watching would cost too much, and is off'
        logger.info('monitor: %s from now on (budget)', note)
        return True

    def is_due(self, iteration: int) -> bool:
        """Return whether a learner step that is not published is watched."""
        return self.every > 0 and iteration % self.every == 0

    def observe(self, watched: bool, learner: float, background: float) -> Iterator[tuple[str, str]]:
        """Note the cost of one record and, if useful, change the cadence. Called in the background on rank 0.

        Arguments:
            watched: whether it is one between two published records.
            learner: milliseconds of the learner's thread, of the slowest rank.
            background: milliseconds of processor time in the background.

        Yields:
            A note for the next published record if the cadence changes.
        """
        if not self._is_auto:
            return
        now = time.monotonic()
        of_learner, of_background = self._costs[watched]
        of_learner.append(learner)
        of_background.append(background)
        self._times.append((self._control.iteration, now))
        every = self._wanted(now)
        present = self.decided
        if every is None or every == present:
            return
        since = 0.0 if self._decided is None else now - self._decided[1]
        # Only a cadence that costs too much is changed early; a decision needs time to reach the other ranks.
        if self._decided is not None and since < (_KNOWN_SECONDS if every > present else _REST_SECONDS):
            return
        if self._decide(every, now):
            yield 'watch', f'every {every} iterations are watched' if every else 'nothing is watched: budget'

    def _wanted(self, now: float) -> int | None:
        (first, begin), (last, end) = self._times[0], self._times[-1]
        if end - begin < _KNOWN_SECONDS or last == first:
            return None
        step = (end - begin) / (last - first) * 1e3
        if not self._costs[True][0]:
            return None
        if self.every == 0 and self._decided is not None and now - self._decided[1] > _RETRY_SECONDS:
            return max(every for every in CADENCES if every < self._frequency)
        cost, published = (self._cost(watched) for watched in (True, False))
        left = self._budget - published / (step * self._frequency)
        every = cadence_under(left, cost, step) if left > 0 else 0
        if every >= self._frequency:
            return 0
        if self._decided is not None and 0 < every < self.decided and cost > 0.8 * left * step * every:
            # So close to the limit that it would change back and forth.
            return self.decided
        return every

    def _cost(self, watched: bool) -> float:
        of_learner, of_background = self._costs[watched]
        if not of_learner:
            return 0.0
        return statistics.median(of_learner) + statistics.fmean(of_background)
