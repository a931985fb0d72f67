"""Which figures have left their own past by more than they ever do: one test for all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from ding_normmon.core.figure import Figure, Stage
from ding_normmon.core.figures import Figures
from ding_normmon.core.metric_names import task_in, without_task
from ding_normmon.diagnose.past import FEWEST, Past, Rows, Values, transformed

__all__ = ['PATIENCE', 'RECENT', 'TOLERANCES', 'Departure', 'Departures', 'Tolerance']

RECENT = 3
"""The median of so many newest points is compared with the past."""

NEAR, FAR = 32, 64
"""Points of the two pasts: the last ones, and as many of the whole run."""

SPACING = 5
"""Iterations between points at least: what is measured more often changes no faster."""

PATIENCE = 160
"""After so many points away from its past, a figure's new level becomes its past."""

_REFRESH, _YOUNG = 4, 48
"""The pasts are described anew every so many records, and in each of the first records."""

_ABNORMAL = 0.85
"""Points of a figure that is away by so much do not enter its past."""

_FAR_AWAY = 2.0
"""Nor do those of a figure that drifts if it is away by so much."""

_SETTLED = 9

_RAREST = 64
"""A figure that has not been measured for so many records is not judged."""

_SHRINKS = 0.97
"""Factor on the size of a figure that training makes smaller, such as a loss, from one description to the next."""

_MEMORY = 0.96
"""Factor on the largest healthy move of a figure from one point to the next."""

_FEW = 6.0
"""A spread that n points tell is believed to be 1 + (_FEW / n)² times as large."""


@dataclass(frozen=True)
class Tolerance:
    """What counts as a small change at one stage.

    Arguments:
        spread: smallest spread that is believed, of the transformed value.
        zero: what counts as 0, as a fraction of the figure's usual size.
        alone: factor on the threshold where no other task tells whether it is part of learning.
        is_steady: whether training leaves the figure as it is, so that a drift is a change too.
        only_rises: whether only a rise is a change for the worse.
    """

    spread: float
    zero: float
    alone: float = 1.0
    is_steady: bool = False
    only_rises: bool = False


TOLERANCES: Mapping[Stage, Tolerance] = {
    'data': Tolerance(0.15, 0.3, is_steady=True),
    'target': Tolerance(0.15, 0.3, is_steady=True),
    'loss': Tolerance(0.07, 0.1, 3.0, is_steady=True, only_rises=True),
    'output': Tolerance(0.10, 0.20, 2.0),
    'representation': Tolerance(0.12, 0.05, 1.5, is_steady=True),
    'gradient': Tolerance(0.25, 0.01, 1.5, is_steady=True),
    'update': Tolerance(0.20, 0.01, 2.5),
    'weight': Tolerance(0.06, 0.05, 2.5),
}

_REWARD = 'reward'
REWARDS = Tolerance(0.25, 1.0, is_steady=True)
"""Of figures in units of reward: that there are rewards, and values of their size, is what training is for."""

_PARTS_OF_ONE = ('share', 'rate', 'cosine')


@dataclass(frozen=True)
class Departure:
    """A figure that is away from its past.

    Arguments:
        name: the figure.
        figure: its declaration.
        task: global id of its task; None where it has none.
        family: its name without the task.
        strength: 1 at the threshold.
        shift: difference to the past on the figure's own scale, with its sign.
        others: median shift of the same figure of the other tasks; NaN where there is none.
        approaches: whether it is nearer to the other tasks' level than it was.
        level: median of the newest points.
        past: median of the past.
        since: iteration at which it left.
        age: its points since then.
        is_rare: whether it is measured in some records only.
    """

    name: str
    figure: Figure
    task: int | None
    family: str
    strength: float
    shift: float
    others: float
    approaches: bool
    level: float
    past: float
    since: int
    age: int
    is_rare: bool


class Departures:
    """The pasts of all judged figures, and which figures are away from them.

    The test: the median of the newest points lies further from the median of the past than ``threshold`` spreads of the
    past, and further than any healthy move before. The spread is the largest of 1.48 times the median absolute
    deviation, a fifth of the range, and a floor in the figure's own units. There are two pasts, the last points, which
    see a jump, and the whole run, which sees a drift. Points of a figure that is away do not enter its past.

    Values are compared as asinh(value / zero), which is the logarithm for sizes above ``zero`` and linear below, so
    that neither a sign nor a value near 0 is a case of its own.

    Arguments:
        figures: the declarations; figures that declare a stage of the learner step are judged.
        threshold: spreads at the threshold for a single figure; it grows with the logarithm of their number.
        release: smallest strength at which a figure counts as away.
        repeats: whether the same value again is the last measurement, written once more.

    Attributes:
        current: the figures that are away in the newest record.
        learning_rate: that of shared parts; None where it is not known.
    """

    def __init__(self, figures: Figures, threshold: float = 2.4, release: float = 0.65, repeats: bool = False) -> None:
        self._figures, self._threshold, self._release, self._repeats = figures, threshold, release, repeats
        self._names: list[str] = []
        self._declared: list[Figure] = []
        self._tasks: list[int | None] = []
        self._row_of_point: list[int] = []
        self._rows_of_points: Rows = np.zeros(0, np.intp)
        self._has_data: set[str] = set()
        self._stems: dict[str, int] = {}
        self._families: dict[str, list[int]] = {}
        self._near, self._far = Past(NEAR), Past(FAR, whole=True)
        self._recent: Values = np.full((0, RECENT), np.nan)
        self._state = np.zeros(0, _STATE)
        self._is_rate = np.zeros(0, np.bool_)
        self.learning_rate: float | None = None
        self._records = 0
        self._next = -1
        self.current: tuple[Departure, ...] = ()

    def add(self, iteration: int, names: Sequence[str], points: Rows, values: Values) -> None:
        """Take the points of one record.

        Arguments:
            iteration: of the record.
            names: every figure of the run so far.
            points: positions in ``names``.
            values: of these figures.
        """
        if iteration < self._next:
            return
        self._next = iteration + SPACING
        self._register(names)
        rows, rate = self._rows_of_points[points], values[self._is_rate[points]]
        judged = rows >= 0
        rows, values = rows[judged], values[judged]
        state = self._state
        if rate.size:
            self.learning_rate = float(np.median(rate))
        # A step is judged by what it is for its learning rate, because the rate has a schedule; see `learning_rate`.
        is_step = state['is_step'][rows]
        if self.learning_rate:
            values = np.where(is_step, values / self.learning_rate, values)
        elif self.learning_rate is not None:
            rows, values = rows[~is_step], values[~is_step]
        again = state['ignores_repeats'][rows] & (values == self._recent[rows, -1]) & (values != 0)
        rows, values = rows[~again], values[~again]
        state['gap'][rows] = self._records - state['latest'][rows]
        state['latest'][rows] = self._records
        leaving = self._recent[rows, 0]
        self._recent[rows, :-1] = self._recent[rows, 1:]
        self._recent[rows, -1] = values
        normal = ~state['is_held'][rows] & ~np.isnan(leaving)
        for past in (self._near, self._far):
            past.add(rows[normal], leaving[normal])
        if self._records % _REFRESH == 0 or self._records < _YOUNG:
            self._describe()
        self._test(iteration, rows[state['is_ready'][rows]])
        self._records += 1

    def _register(self, names: Sequence[str]) -> None:
        for name in names[len(self._row_of_point) :]:
            figure = self._figures.describe(name)
            row = -1
            if figure is not None and figure.stage:
                row = len(self._names)
                self._names.append(name)
                self._declared.append(figure)
                self._tasks.append(task_in(name))
                self._families.setdefault(without_task(name), []).append(row)
            self._row_of_point.append(row)
        if len(self._row_of_point) == len(self._rows_of_points):
            return
        self._rows_of_points = np.array(self._row_of_point, np.intp)
        rates = [name for name in names if name.startswith('learning_rate/') and task_in(name) is None]
        shared = {name for name in rates if name != 'learning_rate/model'} or set(rates)
        self._is_rate = np.array([name in shared for name in names], np.bool_)
        old, more = len(self._state), len(self._names) - len(self._state)
        self._state = np.concatenate([self._state, np.zeros(more, _STATE)])
        self._recent = np.concatenate([self._recent, np.full((more, RECENT), np.nan)])
        for past in (self._near, self._far):
            past.grow(len(self._names))
        for row in range(old, len(self._names)):
            figure = self._declared[row]
            tolerance = TOLERANCES[figure.stage]
            is_part = figure.kind in _PARTS_OF_ONE and figure.scale == 'linear'
            entry = self._state[row]
            stem, _, statistic = self._names[row].rpartition('/')
            # Mean, maximum and so on of one signal have one unit; so have rewards and values, of all tasks.
            key = stem if statistic.rpartition('_')[2] in _STATISTICS else self._names[row]
            key = _REWARD if figure.unit == _REWARD else key
            is_data = figure.stage == 'data'
            self._has_data.update([key] if is_data else [])
            entry['tells_size'] = is_data or key not in self._has_data
            entry['stem'] = self._stems.setdefault(key, len(self._stems))
            entry['is_sparse'] = figure.stage in ('data', 'target')
            if figure.unit == _REWARD:
                tolerance = REWARDS
            entry['part'] = 0.0 if is_part else tolerance.zero
            entry['floor'] = 0.04 if is_part else tolerance.spread
            # What is frozen does not tell how fast it may move once it is trained.
            entry['ignores_repeats'] = not tolerance.is_steady or (self._repeats and figure.stage == 'gradient')
            entry['is_step'] = figure.stage == 'update' and figure.kind == 'ratio'
            entry['drifts'] = not tolerance.is_steady
            entry['direction'] = float(tolerance.only_rises)

    def _describe(self) -> None:
        """Describe the pasts anew, those of figures that have one."""
        state = self._state
        rows = np.flatnonzero(self._near.counts >= FEWEST)
        if not rows.size:
            return
        # The size of a signal is the largest that any of its statistics has had.
        usual = self._near.largest(rows)
        sizes = np.zeros(len(self._stems))
        np.maximum.at(sizes, state['stem'], state['size'] * np.where(state['direction'], _SHRINKS, 1.0))
        tells = state['tells_size'][rows]
        np.maximum.at(sizes, state['stem'][rows[tells]], usual[tells])
        state['size'] = sizes[state['stem']]
        rows = rows[state['size'][rows] > 0]
        zero = state['part'][rows] * state['size'][rows]
        state['zero'][rows] = zero
        for which, past in (('near', self._near), ('far', self._far)):
            middle, spread = past.middle_and_spread(rows, zero, state['is_sparse'][rows])
            state[f'{which}_middle'][rows] = middle
            spread = spread * (1 + (_FEW / past.counts[rows]) ** 2)
            state[f'{which}_spread'][rows] = np.maximum(spread, state['floor'][rows])
        state['is_ready'][rows] = True

    def _test(self, iteration: int, rows: Rows) -> None:
        state = self._state
        level = _median_of_three(self._recent[rows, -RECENT:])
        now = transformed(level, state['zero'][rows])
        state['level'][rows], state['now'][rows] = level, now
        threshold = self._threshold * math.sqrt(2 * math.log(max(len(rows), 2) * 4)) / 2
        strength, shift = np.zeros(len(rows)), np.zeros(len(rows))
        for which in ('near', 'far'):
            moved = now - state[f'{which}_middle'][rows]
            limit = np.maximum(threshold * state[f'{which}_spread'][rows], 1.2 * state[f'{which}_moved'][rows])
            if which == 'far':
                limit = np.where(state['drifts'][rows], np.inf, limit)
            size = np.where(moved * state['direction'][rows] < 0, 0.0, np.abs(moved)) / limit
            healthy = np.where(moved * state['direction'][rows] < 0, 0.0, np.abs(moved))
            known = state[f'{which}_moved'][rows]
            state[f'{which}_moved'][rows] = np.where(size < self._release, np.maximum(_MEMORY * known, healthy), known)
            larger = size > strength
            strength, shift = np.where(larger, size, strength), np.where(larger, moved, shift)
        # What drifts as long as it is trained has no past to hold on to, nor have the first points.
        holds = (~state['drifts'][rows] | (strength >= _FAR_AWAY)) & (self._near.counts[rows] >= _SETTLED)
        is_abnormal = strength >= _ABNORMAL
        state['is_held'][rows] = is_abnormal & holds
        state['shift'][rows] = shift
        state['strength'][rows] = strength
        state['since'][rows] = np.where(state['away'][rows] == 0, iteration, state['since'][rows])
        state['away'][rows] = np.where(is_abnormal, state['away'][rows] + 1, 0)
        # What is measured in some records only is away in between, too.
        age = self._records - state['latest']
        away = np.flatnonzero((state['strength'] >= self._release) & (age < np.minimum(state['gap'], _RAREST)))
        self.current = tuple(map(self._departure, away.tolist()))
        tired = rows[state['away'][rows] > PATIENCE]
        if tired.size:
            for past in (self._near, self._far):
                past.forget(tired)
            for field in ('away', 'strength', 'near_moved', 'far_moved', 'is_held', 'is_ready'):
                state[field][tired] = 0

    def distance(self, task: int, scalars: Mapping[str, float]) -> float:
        """Return how many spreads a task's data are from their past, on average; where it has none, its outputs.

        Arguments:
            task: global task id.
            scalars: the newest record's.
        """
        state = self._state
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
                # One figure is not to outweigh the others.
                return float(np.mean(np.minimum(apart, _APART)))
        return 0.0

    def _departure(self, row: int) -> Departure:
        state, name = self._state, self._names[row]
        family = without_task(name)
        others = [other for other in self._families[family] if other != row and self._tasks[other] is not None]
        entry = state[row]
        fresh = [o for o in others if state['latest'][o] == entry['latest'] and state['is_ready'][o]]
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
        )


_APART = 10.0

_STATISTICS = ('mean', 'std', 'max', 'min')

_STATE = np.dtype(
    [
        ('stem', np.intp),
        ('part', np.float64),
        ('floor', np.float64),
        ('direction', np.float64),
        ('size', np.float64),
        ('zero', np.float64),
        ('near_middle', np.float64),
        ('near_spread', np.float64),
        ('near_moved', np.float64),
        ('far_middle', np.float64),
        ('far_spread', np.float64),
        ('far_moved', np.float64),
        ('level', np.float64),
        ('now', np.float64),
        ('shift', np.float64),
        ('strength', np.float64),
        ('away', np.int64),
        ('since', np.int64),
        ('is_sparse', np.bool_),
        ('drifts', np.bool_),
        ('tells_size', np.bool_),
        ('is_step', np.bool_),
        ('ignores_repeats', np.bool_),
        ('latest', np.int64),
        ('gap', np.int64),
        ('is_ready', np.bool_),
        ('is_held', np.bool_),
    ]
)
"""What is known of one figure."""


def _median_of_three(values: Values) -> Values:
    first, second, third = values.T
    middle: Values = np.maximum(np.minimum(first, second), np.minimum(np.maximum(first, second), third))
    return middle
