"""Measures expensive metrics less often than configured; all ranks change together."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence

from ding_normmon.metrics import Metric
from ding_normmon.metrics.presets import WATCHED
from ding_normmon.monitor.budget.cost_budget import FACTORS, Budget
from ding_normmon.ranks.decisions.control import STRETCH, Control, ControlError, Decision

__all__ = ['Throttle']

logger = logging.getLogger('ding_normmon')


class Throttle:
    """Decides which metrics are due, and on rank 0 which of them cost too much.

    Arguments:
        metrics: all metrics, prepared.
        frequency: learner iterations between two measurements, for metrics without a frequency of their own.
        budget: share of training time that the monitor may take; None for no limit.
        control: passes on rank 0's decisions; each takes effect on all ranks or on none.
        deadline: seconds after which a decision that has not taken effect is forgotten.
    """

    def __init__(
        self, metrics: Sequence[Metric], frequency: int, budget: float | None, control: Control, deadline: float
    ) -> None:
        self._limit = budget
        self._control = control
        self._deadline = deadline
        self._frequencies = {metric.name: metric.frequency or frequency for metric in metrics}
        self._factors = {metric.name: 1 for metric in metrics if metric.stretchable}
        self._watched = {metric.name for metric in metrics if type(metric) in WATCHED}
        # Rank 0's decisions and their times. The factors change when all ranks have agreed and reach the iteration.
        self._announced: dict[str, tuple[int, float]] = {}
        self._budget = Budget(budget or 1.0, self._frequencies, frozenset(self._factors))
        for name in self._factors:
            for factor in FACTORS:
                control.on(f'{STRETCH}{name} {factor}', self._stretch)

    def _stretch(self, decision: Decision) -> None:
        _, name, factor = str(decision.action).split()
        self._factors[name] = int(factor)

    def is_due(self, metric: Metric, iteration: int) -> bool:
        """Return whether a metric is measured in a monitored iteration."""
        return iteration % (self._frequencies[metric.name] * self._factors.get(metric.name, 1)) == 0

    def is_watched(self, metric: Metric) -> bool:
        """Return whether a metric is measured between published records: basic metrics that do not cost too much."""
        return metric.name in self._watched and self._factors.get(metric.name, 1) == 1

    def keep_to_budget(self, iteration: int, scalars: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        """Reduce how often expensive metrics are measured, on all ranks. Called in the background on rank 0.

        Yields:
            Notes for the record.
        """
        if self._limit is None or not self._factors:
            return
        costs = {name: scalars.get(f'monitor/cost/{name}/ms') for name in self._frequencies}
        known = {name: cost for name, cost in costs.items() if cost is not None}
        now = time.monotonic()
        self._budget.observe(iteration, now, known)
        recent = {name: factor for name, (factor, at) in self._announced.items() if now - at < 2 * self._deadline}
        for name, factor in self._budget.propose({**self._factors, **recent}).items():
            try:
                self._control.post(f'{STRETCH}{name} {factor}')
            except ControlError:
                # Too many open decisions, or the learner was faster. It is proposed again with the next record.
                continue
            self._announced[name] = (factor, now)
            every = self._frequencies[name] * factor
            note = f'{name} is measured every {every} iterations from now on: budget={self._limit:g}'
            logger.warning('monitor: %s of training time', note)
            yield f'budget/{name}', note
