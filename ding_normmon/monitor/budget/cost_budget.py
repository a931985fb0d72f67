r"""Which metrics have to be measured less often so that the monitor stays under its share of training time.

With :math:`c_q` the milliseconds of one measurement of metric :math:`q`, :math:`f_q` its frequency in learner
iterations, :math:`k_q` the factor by which that is stretched and :math:`s` the milliseconds of one learner iteration
(wall clock, whatever happens in it), the monitor's share of training time is

.. math:: \sum_q \frac{c_q}{s\,f_q\,k_q}

The factors are powers of two, so a stretched metric is measured at a subset of the iterations it was configured for.
As long as the share is over the budget, the factor of the stretchable metric with the largest share is doubled. Where
the others alone take more, stretching ends when it could save no more than a quarter of what they take. Factors fall
again only when even the next smaller ones leave half of the budget unused, so a cost at the border does not make them
swing.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ['FACTORS', 'Budget', 'factors_under', 'share']

FACTORS = tuple(2**power for power in range(13))
"""By how much a frequency may be stretched."""

WARM_UP_SECONDS = 20.0
"""Nothing is decided before: first steps compile, allocate and fill caches."""

_WORTH_IT = 0.25
"""Stretched metrics that take a smaller part of what the others take are not stretched further."""


@dataclass(frozen=True)
class Load:
    """What one metric costs.

    Arguments:
        milliseconds: of one measurement.
        frequency: learner iterations between two measurements, not stretched.
        stretchable: whether it may be measured less often.
    """

    milliseconds: float
    frequency: int
    stretchable: bool


def share(loads: Mapping[str, Load], factors: Mapping[str, int], step_milliseconds: float) -> float:
    """Return the share of training time that measuring takes.

    >>> share({'a': Load(5.0, 10, True)}, {'a': 2}, step_milliseconds=10.0)
    0.025
    """
    return sum(
        load.milliseconds / (step_milliseconds * load.frequency * factors.get(name, 1)) for name, load in loads.items()
    )


def factors_under(budget: float, loads: Mapping[str, Load], step_milliseconds: float) -> dict[str, int]:
    """Return the smallest factors with which the share stays under the budget, as far as stretching can bring it.

    >>> loads = {'norms': Load(1.0, 10, False), 'conflict': Load(50.0, 10, True), 'plasticity': Load(2.0, 10, True)}
    >>> factors_under(0.02, loads, step_milliseconds=100.0)
    {'conflict': 4, 'plasticity': 1}
    """
    factors = {name: 1 for name, load in loads.items() if load.stretchable}
    rest = share({name: load for name, load in loads.items() if not load.stretchable}, {}, step_milliseconds)
    limit = max(budget, (1 + _WORTH_IT) * rest)
    while share(loads, factors, step_milliseconds) > limit:
        open_ones = [name for name, factor in factors.items() if factor < FACTORS[-1] and loads[name].milliseconds > 0]
        if not open_ones:
            break
        worst = max(open_ones, key=lambda name: loads[name].milliseconds / (loads[name].frequency * factors[name]))
        factors[worst] *= 2
    return factors


@dataclass
class Budget:
    """Rank 0's account of what every metric costs; it proposes, the monitor decides.

    Arguments:
        budget: share of training time.
        frequencies: learner iterations between two measurements, by metric.
        stretchable: the metrics that may be measured less often.

    Example:
        >>> account = Budget(0.01, {'conflict': 10}, frozenset({'conflict'}))
        >>> for iteration in range(0, 1000, 10):          # 100 ms per iteration, 30 ms per measurement: a share of 3%
        ...     account.observe(iteration, iteration * 0.1, {'conflict': 30.0})
        >>> account.propose({'conflict': 1})
        {'conflict': 4}
        >>> account.propose({'conflict': 4})
        {}
    """

    budget: float
    frequencies: Mapping[str, int]
    stretchable: frozenset[str]
    _costs: dict[str, deque[float]] = field(default_factory=dict)
    _times: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=64))
    _begun: float | None = None

    def observe(self, iteration: int, seconds: float, milliseconds: Mapping[str, float]) -> None:
        """Take what the metrics cost in one record.

        Arguments:
            iteration: of the record; an earlier one than the last is ignored.
            seconds: when the record was complete, on a monotonic clock.
            milliseconds: of the slowest rank, by metric; only those that were measured.
        """
        if self._times and iteration <= self._times[-1][0]:
            return
        self._begun = seconds if self._begun is None else self._begun
        self._times.append((iteration, seconds))
        for name, cost in milliseconds.items():
            self._costs.setdefault(name, deque(maxlen=9)).append(cost)

    def step_milliseconds(self) -> float | None:
        """Return the wall-clock milliseconds of one learner iteration; None as long as there is too little data."""
        if self._begun is None or len(self._times) < 3 or self._times[-1][1] - self._begun < WARM_UP_SECONDS:
            return None
        (first, begin), (last, end) = self._times[0], self._times[-1]
        return (end - begin) / (last - first) * 1e3

    def propose(self, factors: Mapping[str, int]) -> dict[str, int]:
        """Return the factors that have to change, given the present ones."""
        step = self.step_milliseconds()
        if step is None:
            return {}
        # The median: one measurement in which the operating system was busy elsewhere says nothing.
        loads = {
            name: Load(statistics.median(costs), self.frequencies[name], name in self.stretchable)
            for name, costs in self._costs.items()
            if name in self.frequencies
        }
        wanted = factors_under(self.budget, loads, step)
        relaxed = factors_under(self.budget / 2, loads, step)
        changes = {}
        for name, factor in wanted.items():
            present = factors.get(name, 1)
            if factor > present:
                changes[name] = factor
            elif relaxed[name] < present:
                changes[name] = relaxed[name]
        return changes
