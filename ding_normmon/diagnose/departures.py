"""Which figures have left their own past by more than they ever do: one test for all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ding_normmon.core.figures import Figures
from ding_normmon.diagnose.breaks import BROKEN, note_past, note_sign, shrinks, turns, unlearnt, vanishes
from ding_normmon.diagnose.departure import Departure
from ding_normmon.diagnose.judged_figures import JudgedFigures
from ding_normmon.diagnose.past import FEWEST, Past, Rows, Values, transformed

__all__ = ['PATIENCE', 'RECENT', 'SPACING', 'Departures']

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
"""Points that a past is worth before anything holds on to it."""

_YOUNG_RECORDS, _YOUNG_ITERATIONS = 7, 60
"""Nothing is judged before there have been so many records, or iterations."""

_GRADUAL = 0.4
"""A figure has left suddenly if it was below so much of the strength one point before."""

_RAREST = 64
"""A figure that has not been measured for so many records is not judged."""

_MEMORY = 0.985
"""Factor on the largest healthy move of a figure from one point to the next."""

_MOST_WORTH = 2.0
"""A point is worth no more than so many that are five iterations apart."""

_FEW = 6.0
"""A spread that n points tell is believed to be 1 + (_FEW / n)² times as large."""


class Departures:
    """The pasts of all judged figures, and which figures are away from them.

    The test: the median of the newest points lies further from the median of the past than ``threshold`` spreads of the
    past, and further than any healthy move before. The spread is the largest of 1.48 times the median absolute
    deviation, a fifth of the range, and a floor in the figure's own units. A figure that has only ever been between two
    values has also left if it is outside by more than half of what lies between them. There are two pasts, the last
    points, which see a jump, and the whole run, which sees a drift. What training moves all the time has also left if
    it jumps further than its neighbouring points usually differ. Points of a figure that is away do not enter its past.

    Values are compared as asinh(value / zero), which is the logarithm for sizes above ``zero`` and linear below, so
    that neither a sign nor a value near 0 is a case of its own.

    Arguments:
        figures: the declarations; figures that declare a stage of the learner step are judged.
        threshold: spreads at the threshold for a single figure; it grows with the logarithm of their number.
        release: smallest strength at which a figure counts as away.
        repeats: whether the same value again is the last measurement, written once more.

    Attributes:
        current: the figures that are away in the newest record.
        is_new: whether the newest record has changed that.
        learning_rate: that of shared parts; None where it is not known.
    """

    def __init__(self, figures: Figures, threshold: float = 2.4, release: float = 0.65, repeats: bool = False) -> None:
        self._judged, self._threshold, self._release = JudgedFigures(figures, repeats), threshold, release
        self._near, self._far = Past(NEAR), Past(FAR, whole=True)
        self._recent: Values = np.full((0, RECENT), np.nan)
        self.learning_rate: float | None = None
        self._records = 0
        self._next = -1
        self._gap = SPACING
        self._began: int | None = None
        self.current: tuple[Departure, ...] = ()
        self.is_new = False

    def add(self, iteration: int, names: Sequence[str], points: Rows, values: Values) -> None:
        """Take the points of one record.

        Arguments:
            iteration: of the record.
            names: every figure of the run so far.
            points: positions in ``names``.
            values: of these figures.
        """
        self.is_new = iteration >= self._next
        if not self.is_new:
            return
        self._began = iteration if self._began is None else self._began
        self._gap = max(SPACING, iteration - (self._next - SPACING) if self._records else SPACING)
        self._next = iteration + SPACING
        self._judged.register(names)
        self._grow(len(self._judged))
        rows, rate = self._judged.rows_of_points[points], values[self._judged.is_rate[points]]
        judged = rows >= 0
        rows, values = rows[judged], values[judged]
        state = self._judged.state
        if rate.size:
            self.learning_rate = float(np.median(rate))
        # A step is judged by what it is for its learning rate, because the rate has a schedule; see `learning_rate`.
        is_step = state['is_step'][rows]
        if self.learning_rate:
            values = np.where(is_step, values / self.learning_rate, values)
        elif self.learning_rate is not None:
            rows, values = rows[~is_step], values[~is_step]
        state['seen'][rows] = self._records
        again = state['ignores_repeats'][rows] & (values == self._recent[rows, -1]) & (values != 0)
        rows, values = rows[~again], values[~again]
        state['gap'][rows] = self._records - state['latest'][rows]
        state['latest'][rows] = self._records
        leaving = self._recent[rows, 0]
        self._recent[rows, :-1] = self._recent[rows, 1:]
        self._recent[rows, -1] = values
        normal = ~state['is_held'][rows] & ~np.isnan(leaving)
        self._note_past(rows[normal], leaving[normal])
        note_sign(state, rows, values)
        if self._records % _REFRESH == 0 or self._records < _YOUNG:
            self._describe()
        if self._records >= _YOUNG_RECORDS or iteration - self._began >= _YOUNG_ITERATIONS:
            self._test(iteration, rows[state['is_ready'][rows]])
        self._records += 1

    def _grow(self, rows: int) -> None:
        more = rows - len(self._recent)
        if more:
            self._recent = np.concatenate([self._recent, np.full((more, RECENT), np.nan)])
            for past in (self._near, self._far):
                past.grow(rows)

    def _counted(self, counts: Values | Rows) -> Values:
        """Return what points are worth: batches that lie further apart have less in common, trends do not."""
        return np.where(self._judged.state['is_sparse'], min(self._gap / SPACING, _MOST_WORTH), 1.0) * counts

    def _describe(self) -> None:
        """Describe the pasts anew, those of figures that have one."""
        state = self._judged.state
        rows = np.flatnonzero((self._counted(self._near.counts) >= state['fewest']) & (self._near.counts >= FEWEST))
        if not rows.size:
            return
        # The size of a signal is the largest that any of its statistics has had.
        usual = self._near.largest(rows)
        sizes = np.zeros(self._judged.units)
        np.maximum.at(sizes, state['stem'], state['size'])
        tells = state['tells_size'][rows]
        np.maximum.at(sizes, state['stem'][rows[tells]], usual[tells])
        state['size'] = sizes[state['stem']]
        size = np.maximum(state['size'], state['least_size'])
        rows = rows[size[rows] > 0]
        zero = state['part'][rows] * size[rows]
        state['zero'][rows] = zero
        for which, past in (('near', self._near), ('far', self._far)):
            middle, spread, low, high = past.describe(rows, zero, state['is_sparse'][rows])
            state[f'{which}_middle'][rows] = middle
            doubt = 1 + (_FEW / self._counted(past.counts)[rows]) ** 2
            state[f'{which}_spread'][rows] = np.maximum(doubt * spread, state['floor'][rows])
            state[f'{which}_low'][rows], state[f'{which}_high'][rows] = low, high
            state[f'{which}_half'][rows] = doubt * (high - low) / 2
        state['last_middle'][rows], steps, state['last_low'][rows] = self._near.lately(rows, zero)
        doubt = 1 + (_FEW / self._counted(self._near.counts)[rows]) ** 2
        state['last_steps'][rows] = doubt * steps
        floor = state['jump_floor'][rows]
        state['last_spread'][rows] = np.where(floor > 0, np.maximum(doubt * steps, floor), np.inf)
        state['last_half'][rows] = np.inf
        state['is_ready'][rows] = True

    def _test(self, iteration: int, rows: Rows) -> None:
        state = self._judged.state
        level = _median_of_three(self._recent[rows, -RECENT:])
        now = transformed(level, state['zero'][rows])
        state['level'][rows], state['now'][rows] = level, now
        threshold = self._threshold * math.sqrt(2 * math.log(max(len(rows), 2) * 4)) / 2
        strength, shift = np.zeros(len(rows)), np.zeros(len(rows))
        for which in ('near', 'far'):
            size, moved = self._moved(which, rows, now, threshold)
            if which == 'far':
                size = np.where(state['drifts'][rows], 0.0, size)
            larger = size > strength
            strength, shift = np.where(larger, size, strength), np.where(larger, moved, shift)
        # What training moves all the time: a jump counts, from one point to the next, as long as it lasts.
        jump, moved = self._moved('last', rows, now, threshold)
        jump = np.where(state['jumps_up'][rows] & (moved < 0), 0.0, jump)
        signed = np.copysign(jump, moved)
        # The median of three takes two points to go all the way.
        before = np.where(
            state['jumps_up'][rows],
            np.minimum(state['jump'][rows], state['jump_before'][rows]),
            np.abs(state['jump'][rows]),
        )
        jumps = (jump >= 1) & (before < _GRADUAL * jump)
        state['jumped'][rows] = (jump >= self._release) & (jumps | state['jumped'][rows])
        state['jump_before'][rows], state['jump'][rows] = state['jump'][rows], signed
        larger = state['jumped'][rows] & (jump > strength)
        strength, shift = np.where(larger, jump, strength), np.where(larger, moved, shift)
        shrunk = shrinks(state, rows, moved, threshold)
        strength, shift = np.maximum(shrunk, strength), np.where(shrunk > strength, moved, shift)
        settled, lively = self._counted(self._near.counts)[rows], self._counted(state['streak'])[rows]
        is_broken = vanishes(state, rows, settled >= _SETTLED, lively) | turns(state, rows)
        strength = np.where(is_broken, np.maximum(strength, BROKEN), strength)
        strength = np.maximum(strength, unlearnt(state, rows, now, threshold))
        # What drifts as long as it is trained has no past to hold on to, nor have the first points.
        holds = ~state['drifts'][rows] | (strength >= _FAR_AWAY) | state['jumped'][rows] | (shrunk >= _ABNORMAL)
        holds &= settled >= _SETTLED
        is_abnormal = strength >= _ABNORMAL
        state['is_held'][rows] = is_abnormal & holds
        begins = state['away'][rows] == 0
        is_sudden = state['strength'][rows] < _GRADUAL * strength
        state['is_sudden'][rows] = np.where(begins, is_sudden, state['is_sudden'][rows])
        state['shift'][rows] = shift
        state['strength'][rows] = strength
        state['since'][rows] = np.where(begins, iteration, state['since'][rows])
        state['away'][rows] = np.where(is_abnormal, state['away'][rows] + 1, 0)
        # What is measured in some records only is away in between, too.
        age = self._records - state['latest']
        away = np.flatnonzero((state['strength'] >= self._release) & (age < np.minimum(state['gap'], _RAREST)))
        self.current = tuple(map(self._judged.departure, away.tolist()))
        tired = rows[state['away'][rows] > PATIENCE]
        if tired.size:
            for past in (self._near, self._far):
                past.forget(tired)
            for field in ('away', 'strength', 'near_moved', 'far_moved', 'last_moved', 'is_held', 'is_ready'):
                state[field][tired] = 0

    def _moved(self, which: str, rows: Rows, now: Values, threshold: float) -> tuple[Values, Values]:
        """Return how far figures are from one of their pasts, 1 at the threshold, and by what; note healthy moves."""
        state = self._judged.state
        middle, known = state[f'{which}_middle'][rows], state[f'{which}_moved'][rows]
        moved = now - middle
        low, high = state[f'{which}_low'][rows], state[f'{which}_high'][rows]
        # The nearest value outside of the range that is a departure; from the middle, so that both limits are one.
        outside = np.where(moved > 0, high - middle, middle - low) + state[f'{which}_half'][rows]
        outside += threshold * state['floor'][rows]
        limit = np.maximum(np.minimum(threshold * state[f'{which}_spread'][rows], outside), 1.2 * known)
        worse = np.where(moved * state['direction'][rows] < 0, 0.0, np.abs(moved))
        size = worse / limit
        # A head that has rested takes large steps again when there is something to learn, as at the beginning.
        within = state['jumps_up'][rows] & (moved > 0) & (state['level'][rows] <= state['largest'][rows])
        size = np.where(within, 0.0, size)
        state[f'{which}_moved'][rows] = np.where(size < self._release, np.maximum(_MEMORY * known, worse), known)
        return size, moved

    def share_departed(self, departure: Departure) -> float:
        """Return the share of a stage's figures without a task that are away in the direction of one of them."""
        return self._judged.share_departed(departure, self._release)

    def distance(self, task: int, scalars: Mapping[str, float]) -> float:
        """Return how many spreads a task's data are from their past, on average; where it has none, its outputs.

        Arguments:
            task: global task id.
            scalars: the newest record's.
        """
        return self._judged.distance(task, scalars)

    def _note_past(self, rows: Rows, values: Values) -> None:
        """Take points into the past."""
        state = self._judged.state
        for past in (self._near, self._far):
            past.add(rows, values)
        note_past(state, rows, values)


def _median_of_three(values: Values) -> Values:
    first, second, third = values.T
    middle: Values = np.maximum(np.minimum(first, second), np.minimum(np.maximum(first, second), third))
    return middle
