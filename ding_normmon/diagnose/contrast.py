"""Compares each task with its own past and with the other tasks."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ding_normmon.diagnose.points import RECENT, median_of_rows
from ding_normmon.diagnose.window import Window

__all__ = ['HEADS', 'Contrast', 'contrasts', 'median_of_others']

HEADS = ('head_value', 'head_reward', 'head_policy', 'head_observation')
"""Parameter groups of a UniZero model's heads."""

_FEWEST = 8
"""Fewest past points needed for a comparison."""


@dataclass(frozen=True)
class Contrast:
    """Change of a per-task metric: its newest points against earlier ones, by task.

    Arguments:
        tasks: global task ids.
        names: the metric's full name, per task.
        own: change of the logarithm against the task's own past.
        relative: ``own`` minus the median change of the other tasks; just ``own`` if there is no other task.
        spread: robust standard deviation of the logarithm of the task's past.
        level: median of the newest points.
        past: median of the past.
        first: the first point of the run.
    """

    tasks: list[int]
    names: list[str]
    own: npt.NDArray[np.float64]
    relative: npt.NDArray[np.float64]
    spread: npt.NDArray[np.float64]
    level: npt.NDArray[np.float64]
    past: npt.NDArray[np.float64]
    first: npt.NDArray[np.float64]

    def least_change(self, index: int) -> float:
        """Return the smaller of a task's two changes, with its sign; 0 if they have opposite signs."""
        own, relative = float(self.own[index]), float(self.relative[index])
        return 0.0 if own * relative <= 0 else float(np.sign(own)) * min(abs(own), abs(relative))


def median_of_others(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return, for each of at least two values, the median of all the others.

    Example:
        >>> median_of_others(np.array([5.0, 1.0, 3.0, 2.0])).tolist()
        [2.0, 3.0, 2.0, 3.0]
    """
    numbers: list[float] = values.tolist()
    ascending = sorted(numbers)
    low, high = (len(numbers) - 2) // 2, (len(numbers) - 1) // 2
    # Leaving out a value at or before a position moves the following ones up by one.
    middles = [
        (ascending[low + (place <= low)] + ascending[high + (place <= high)]) / 2
        for place in map(functools.partial(bisect.bisect_left, ascending), numbers)
    ]
    return np.array(middles)


def contrasts(window: Window, families: Sequence[str], baseline: int = 40, floor: float = 0.15) -> list[Contrast]:
    """Compare each task's newest points of several metrics with their past and with the other tasks'.

    Arguments:
        window: the run.
        families: the metrics' names without their task.
        baseline: number of points that form the past.
        floor: smallest spread; a smaller one is replaced by it.

    Returns:
        One per family; it lists no tasks if there are too few points.
    """
    ready = [window.ready(family, RECENT + _FEWEST) for family in families]
    every_row = np.concatenate([rows for _, rows in ready])
    # All families at once, because the cost is the number of NumPy calls and not the data.
    changes, spreads = window.points.shift(every_row, baseline, floor)
    levels = median_of_rows(window.points.last(every_row, RECENT))
    names = window.points.names
    found, start = [], 0
    for tasks, rows in ready:
        part = slice(start, start := start + len(rows))
        own, level = changes[part], levels[part]
        relative = own - median_of_others(own) if len(tasks) > 1 else own.copy()
        full = [names[row] for row in rows.tolist()]
        first = window.points.first[rows]
        found.append(Contrast(tasks, full, own, relative, spreads[part], level, level / np.exp(own), first))
    return found
