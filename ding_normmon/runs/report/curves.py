"""The numbers of a page: as many as a screen can show, by columns that share their iterations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ding_normmon.core.figures import Figures
from ding_normmon.core.metric_names import task_in
from ding_normmon.runs import MatrixSeries, Run, Series

__all__ = ['POINTS', 'STEPS', 'Columns', 'deviations', 'finite', 'over_iterations', 'plain_matrices', 'stretches']

POINTS = 400
"""Points of one curve that a page has: about as many as a chart has pixels."""

STEPS = 'collect/environment_steps'
"""The curve that says how many environment steps were done at which iteration."""

_MATRICES = 200
"""Positions of the slider of a matrix."""

_STRIP = 120
"""Cells of a task's strip."""

_PAST = 8
"""Cells that make a past."""

_FAR = 6.0
"""Distance from which on a level does not count as the past of those behind it."""

Floats = npt.NDArray[np.float64]


def stretches(values: Floats, points: int = POINTS) -> tuple[npt.NDArray[np.intp], Floats, Floats, Floats]:
    """Split a curve into at most ``points`` stretches of the same number of points.

    Returns:
        index of the middle of each stretch, and the median, smallest and largest finite value in it, each of shape
        (n,); NaN where no value of a stretch is finite.

    Example:
        >>> middles, medians, low, high = stretches(np.array([1.0, 9.0, 2.0, np.nan]), points=2)
        >>> middles.tolist(), medians.tolist(), low.tolist(), high.tolist()
        ([0, 2], [5.0, 2.0], [1.0, 2.0], [9.0, 2.0])
    """
    size = -(-len(values) // points)
    finite = np.where(np.isfinite(values), values, np.nan)
    padded = np.full(-(-len(values) // size) * size, np.nan)
    padded[: len(values)] = finite
    # NaN is sorted to the end: what is before it are the finite values.
    rows = np.sort(padded.reshape(-1, size), axis=1)
    number = size - np.isnan(rows).sum(axis=1)
    places, last = np.arange(len(rows)), np.maximum(number - 1, 0)
    medians = (rows[places, last // 2] + rows[places, (last + 1) // 2]) / 2
    starts = places * size
    middles = (starts + np.minimum(starts + size, len(values)) - 1) // 2
    return middles, medians, rows[:, 0], rows[places, last]


def over_iterations(run: Run) -> Run:
    """Return a run all of whose curves are over learner iterations.

    Loggers write some over environment steps, and no name says so. The time at which a point was written does: the
    monitor's own figures tell which iteration that was. Where the run has no curve of the environment steps, one of
    those becomes it.
    """
    own = [series for name, series in run.series.items() if name.startswith(('norm/', 'grad/', 'monitor/'))]
    clock = max(own, key=lambda series: len(series.times), default=None)
    if clock is None or len(clock.times) < 2 or np.ptp(clock.times) == 0:
        return run
    order = np.argsort(clock.times, kind='stable')
    usual = float(np.median(np.diff(clock.iterations)))
    found, steps = dict(run.series), run.series.get(STEPS)
    for name, series in run.series.items():
        at = np.interp(series.times, clock.times[order], clock.iterations[order])
        if np.median(np.abs(series.iterations - at)) <= max(10 * usual, 0.2 * float(np.median(at))):
            continue
        iterations, places = np.unique(np.rint(at).astype(np.int64), return_index=True)
        found[name] = Series(iterations, series.values[places], series.times[places])
        if steps is None or (STEPS not in run.series and len(iterations) > len(steps.iterations)):
            steps = Series(iterations, series.iterations[places].astype(np.float64), series.times[places])
    return replace(run, series=found if steps is None else {**found, STEPS: steps})


class Columns:
    """The curves of one run, those measured at the same iterations over one axis.

    Arguments:
        run: where they are from.

    Attributes:
        axes: iterations, times and environment steps of the curves that were asked for.
        steps: the environment steps of the run; None if it has none.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._began = min((float(series.times[0]) for series in run.series.values()), default=0.0)
        self._places: dict[bytes, int] = {}
        self.steps = _finite_points(run.series.get(STEPS))
        self.axes: list[dict[str, list[Any] | None]] = []

    def curve(self, series: Series) -> list[Any]:
        """Return a curve as ``[axis, values, low, high, odd]``.

        ``low`` and ``high`` are None where every point is there; ``odd`` are the places at which something was NaN or
        infinite.
        """
        broken = ~np.isfinite(series.values)
        if len(series.values) <= POINTS:
            axis = self._axis(series, np.arange(len(series.values)))
            return [axis, finite(series.values), None, None, np.flatnonzero(broken).tolist()]
        middles, medians, low, high = stretches(series.values)
        size = -(-len(series.values) // POINTS)
        odd = np.unique(np.flatnonzero(broken) // size).tolist()
        return [self._axis(series, middles), finite(medians), finite(low), finite(high), odd]

    def _axis(self, series: Series, chosen: npt.NDArray[np.intp]) -> int:
        iterations = series.iterations[chosen]
        key = iterations.tobytes()
        if key not in self._places:
            self._places[key] = len(self.axes)
            times = series.times[chosen]
            steps = None
            if self.steps is not None:
                known = np.interp(iterations, self.steps.iterations, self.steps.values)
                steps = np.rint(known).astype(np.int64).tolist()
            seconds = [round(value, 1) for value in (times - self._began).tolist()]
            self.axes.append({'iterations': iterations.tolist(), 'times': seconds, 'steps': steps})
        return self._places[key]

    def all_of(self, names: Iterable[str]) -> dict[str, list[Any]]:
        """Return the curves of those names that the run has."""
        return {name: self.curve(self._run.series[name]) for name in names if name in self._run.series}


def finite(values: Floats) -> list[float | None]:
    """Return numbers to five digits; None where one is NaN or infinite, which JSON has no words for."""
    return [float(f'{value:.5g}') if np.isfinite(value) else None for value in values.tolist()]


def plain_matrices(matrices: Mapping[str, MatrixSeries]) -> dict[str, Any]:
    """Return the cosines of pairs of tasks as plain values, at 200 iterations at most."""
    found = {}
    for name, stack in matrices.items():
        if name.endswith('cosine') and (number := len(stack.iterations)):
            chosen = np.unique(np.linspace(0, number - 1, min(number, _MATRICES)).astype(np.intp))
            # Rounding makes infinite what is close to it.
            rounded = stack.values[chosen].round(3)
            values = rounded.astype(object)
            values[~np.isfinite(rounded)] = None
            iterations = stack.iterations[chosen].tolist()
            found[name] = {'iterations': iterations, 'values': values.tolist(), 'rows': list(stack.rows)}
    return found


def deviations(run: Run, figures: Figures) -> dict[str, Any]:
    """Return how far each task is from its own past.

    A figure's distance is that of a stretch's median from the median of all stretches before it, in robust standard
    deviations of those; that of a task is the mean of the three largest among its figures with a chart of one task: the
    norms of its heads, its logits, its losses.

    Arguments:
        run: the run.
        figures: the declarations of its figures.

    Returns:
        ``edges``, first and last iteration, and ``tasks``, task id to up to 120 distances from 0 to 99; None where
        nothing was measured or there is too little past, 100 where something was not finite.
    """
    ends = [(int(series.iterations[0]), int(series.iterations[-1])) for series in run.series.values()]
    if not ends or not run.tasks:
        return {}
    begin, end = min(first for first, _ in ends), max(last for _, last in ends)
    cells = min(_STRIP, max(len(series.values) for series in run.series.values()))
    edges = np.linspace(begin, end + 1, cells + 1)
    of_task: dict[int, list[Floats]] = {}
    for name, series in run.series.items():
        figure, task = figures.describe(name), task_in(name)
        if figure is None or task not in run.tasks or not figure.of_task or figure.prominence == 'detail':
            continue
        is_log = figure.scale == 'log' and not figure.is_signed(name)
        values = np.log(np.maximum(series.values, 1e-30)) if is_log else series.values
        parts = np.split(values, np.searchsorted(series.iterations, edges[1:-1]))
        levels = np.array([_median(part) for part in parts])
        levels[[len(part) > 0 and not np.isfinite(part).all() for part in parts]] = np.inf
        of_task.setdefault(task, []).append(_distance(levels, 0.05 if is_log else 0.0))
    strips = {}
    for task, distances in sorted(of_task.items()):
        rows = np.sort(np.nan_to_num(np.stack(distances), nan=-1.0), axis=0)[::-1]
        largest = rows[: min(3, len(rows))]
        mean = np.where(rows[0] >= 100, 100, np.minimum(np.where(largest >= 0, largest, 0).mean(axis=0), 99))
        strips[str(task)] = [round(x, 1) if y >= 0 else None for x, y in zip(mean.tolist(), rows[0], strict=True)]
    return {'edges': [begin, end], 'tasks': strips}


def _distance(levels: Floats, least: float) -> Floats:
    """Return the distance of each level from those before it; NaN where there are fewer than eight.

    What was far from its past is no past itself, or a new level would soon be the old one; it becomes one when
    more than half of the run so far was far from it.
    """
    found = np.full(len(levels), np.nan)
    found[np.isinf(levels)] = 100.0
    places = np.flatnonzero(np.isfinite(levels))
    values = levels[places]
    is_far = np.zeros(len(values), bool)
    for number in range(_PAST, len(values)):
        far = is_far[:number]
        past = values[:number] if 2 * far.sum() > number else values[:number][~far]
        middle = _median(past)
        spread = 1.4826 * _median(np.abs(past - middle))
        distance = abs(values[number] - middle) / max(spread, least or 0.02 * abs(middle), 1e-12)
        found[places[number]] = min(distance, 99.0)
        is_far[number] = distance > _FAR
    return found


def _median(values: Floats) -> float:
    """Return the median; NaN where there is none. NumPy's own takes ten times as long for a few values."""
    if not len(values) or np.isnan(values).any():
        return math.nan
    ordered, middle = np.sort(values), len(values) // 2
    return float(ordered[middle] + ordered[(len(values) - 1) // 2]) / 2


def _finite_points(series: Series | None) -> Series | None:
    """Return the series without points that are NaN or beyond any count; None if there are no others."""
    if series is None:
        return None
    kept = np.abs(series.values) < 2**62
    return Series(series.iterations[kept], series.values[kept], series.times[kept]) if kept.any() else None
