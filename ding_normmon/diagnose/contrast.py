"""One task against its own past and against the other tasks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ding_normmon.diagnose.points import RECENT, median_of_rows
from ding_normmon.diagnose.window import Window

__all__ = ['HEADS', 'Contrast', 'contrast', 'median_of_others']

HEADS = ('head_value', 'head_reward', 'head_policy', 'head_observation')
"""The heads of a UniZero model, as groups."""

_FEWEST = 8
"""Points of the past without which nothing is compared."""


@dataclass(frozen=True)
class Contrast:
    """How the newest points of one per-task metric differ from those before, by task.

    Arguments:
        tasks: global task ids.
        names: the metric's full name, per task.
        own: change of the logarithm against the task's own past.
        relative: the same minus the median change of the other tasks; ``own`` where there is no other.
        spread: what the logarithm of the task's past spreads over, as a standard deviation.
        level: median of the newest points.
        past: what the level was.
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
        """Return the smaller of both changes of a task, with its sign; 0 where they disagree in direction."""
        own, relative = float(self.own[index]), float(self.relative[index])
        return 0.0 if own * relative <= 0 else float(np.sign(own)) * min(abs(own), abs(relative))


def median_of_others(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return, for each of at least two values, the median of all the others.

    Example:
        >>> median_of_others(np.array([5.0, 1.0, 3.0, 2.0])).tolist()
        [2.0, 3.0, 2.0, 3.0]
    """
    order = np.argsort(values)
    place = np.empty(len(values), np.intp)
    place[order] = np.arange(len(values))
    ascending = values[order]

    def remaining(position: int) -> npt.NDArray[np.float64]:
        return np.where(position < place, ascending[position], ascending[min(position + 1, len(values) - 1)])

    others = len(values) - 1
    return (remaining((others - 1) // 2) + remaining(others // 2)) / 2


def contrast(window: Window, family: str, baseline: int = 40, floor: float = 0.15) -> Contrast:
    """Compare each task's newest points of a metric with its past and with the other tasks'.

    Arguments:
        window: the run.
        family: the metric's name without its task.
        baseline: points that are the past.
        floor: smallest spread that is believed.
    """
    tasks, rows = window.ready(family, RECENT + _FEWEST)
    if not tasks:
        nothing = np.zeros(0)
        return Contrast([], [], nothing, nothing, nothing, nothing, nothing, nothing)
    own, spread = window.points.shift(rows, baseline, floor)
    relative = own - median_of_others(own) if len(tasks) > 1 else own.copy()
    level = median_of_rows(window.points.last(rows, RECENT))
    names = window.points.names
    full = [names[row] for row in rows.tolist()]
    return Contrast(tasks, full, own, relative, spread, level, level / np.exp(own), window.points.first[rows])
