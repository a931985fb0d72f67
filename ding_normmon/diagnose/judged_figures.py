"""The figures that are compared with their past, and what is known of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np

from ding_normmon.core.figure import Figure
from ding_normmon.core.figures import Figures
from ding_normmon.core.metric_names import task_in, without_task
from ding_normmon.diagnose.departure import Departure
from ding_normmon.diagnose.past import Rows, transformed
from ding_normmon.diagnose.tolerances import STATE, declare, is_judged, unit_of

__all__ = ['JudgedFigures']

_APART = 10.0
"""Spreads that one figure counts for at most, so that it does not outweigh the others."""


class JudgedFigures:
    """The figures of a run that declare a stage of the learner step, one row each.

    Arguments:
        figures: the declarations.
        repeats: whether the same value again is the last measurement, written once more.

    Attributes:
        state: what is known of them, see :data:`~ding_normmon.diagnose.tolerances.STATE`; a new array when some join.
        rows_of_points: row of each figure of the run; -1 for those that are not judged.
        is_rate: which figures of the run are learning rates of shared parts.
        units: how many sizes they have between them, see :func:`~ding_normmon.diagnose.tolerances.unit_of`.
    """

    def __init__(self, figures: Figures, repeats: bool) -> None:
        self._figures, self._repeats = figures, repeats
        self._names: list[str] = []
        self._declared: list[Figure] = []
        self._tasks: list[int | None] = []
        self._row_of_point: list[int] = []
        self._has_data: set[str] = set()
        self._stems: dict[str, int] = {}
        self._families: dict[str, list[int]] = {}
        self.state = np.zeros(0, STATE)
        self.rows_of_points: Rows = np.zeros(0, np.intp)
        self.is_rate = np.zeros(0, np.bool_)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def units(self) -> int:
        return len(self._stems)

    def register(self, names: Sequence[str]) -> None:
        """Take in the figures of the run that are new.

        Arguments:
            names: every figure of the run so far.
        """
        for name in names[len(self._row_of_point) :]:
            figure = self._figures.describe(name)
            row = -1
            if figure is not None and is_judged(name, figure):
                row = len(self._names)
                self._names.append(name)
                self._declared.append(figure)
                self._tasks.append(task_in(name))
                self._families.setdefault(without_task(name), []).append(row)
            self._row_of_point.append(row)
        if len(self._row_of_point) == len(self.rows_of_points):
            return
        self.rows_of_points = np.array(self._row_of_point, np.intp)
        rates = [name for name in names if name.startswith('learning_rate/') and task_in(name) is None]
        shared = {name for name in rates if name != 'learning_rate/model'} or set(rates)
        self.is_rate = np.array([name in shared for name in names], np.bool_)
        old, more = len(self.state), len(self._names) - len(self.state)
        self.state = np.concatenate([self.state, np.zeros(more, STATE)])
        for row in range(old, len(self._names)):
            figure = self._declared[row]
            entry, stem = self.state[row], unit_of(self._names[row], figure)
            declare(entry, self._names[row], figure, self._repeats)
            is_data = figure.stage == 'data'
            self._has_data.update([stem] if is_data else [])
            entry['tells_size'] = is_data or stem not in self._has_data
            entry['stem'] = self._stems.setdefault(stem, len(self._stems))

    def share_departed(self, departure: Departure, release: float) -> float:
        """Return the share of a stage's figures without a task that are away in the direction of one of them.

        Arguments:
            departure: of that figure.
            release: smallest strength at which a figure counts as away.
        """
        state = self.state
        rows = [row for row, figure in enumerate(self._declared) if figure.stage == departure.figure.stage]
        rows = [row for row in rows if self._tasks[row] is None and state['is_ready'][row]]
        away = [row for row in rows if state['strength'][row] >= release]
        return sum(bool(state['shift'][row] * departure.shift > 0) for row in away) / max(len(rows), 1)

    def distance(self, task: int, scalars: Mapping[str, float]) -> float:
        """Return how many spreads a task's data are from their past, on average; where it has none, its outputs.

        Arguments:
            task: global task id.
            scalars: the newest record's.
        """
        state = self.state
        for stages in (('data', 'target'), ('output',)):
            rows = [
                row
                for row, its in enumerate(self._tasks)
                if its == task
                and state['is_ready'][row]
                and self._names[row] in scalars
                and self._declared[row].stage in stages
            ]
            if rows:
                now = transformed(np.array([scalars[self._names[row]] for row in rows]), state['zero'][rows])
                apart = np.abs(now - state['near_middle'][rows]) / state['near_spread'][rows]
                return float(np.mean(np.minimum(apart, _APART)))
        return 0.0

    def departure(self, row: int) -> Departure:
        """Return what is known of a figure that is away."""
        state, name = self.state, self._names[row]
        family = without_task(name)
        others = [other for other in self._families[family] if other != row and self._tasks[other] is not None]
        entry = state[row]
        fresh = [o for o in others if state['seen'][o] == entry['seen'] and state['is_ready'][o]]
        shift, zero = float(entry['shift']), float(entry['zero'])
        now = float(state['now'][row])
        past = now - shift
        level = math.sinh(now) * zero if zero else now
        theirs = median(state['level'][fresh].tolist()) if fresh else math.nan
        peer = (math.asinh(theirs / zero) if zero else theirs) if fresh else math.nan
        return Departure(
            name,
            self._declared[row],
            self._tasks[row],
            family,
            float(entry['strength']),
            shift,
            median(state['shift'][fresh].tolist()) if fresh else math.nan,
            bool(fresh) and abs(now - peer) < abs(past - peer),
            level,
            math.sinh(past) * zero if zero else past,
            int(entry['since']),
            int(entry['away']),
            int(entry['gap']) > 2,
            bool(entry['is_sudden']),
        )
