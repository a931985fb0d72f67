"""What differs most between runs, against how much each varies by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ding_normmon.runs import Run, Series

__all__ = ['Change', 'find_changes', 'last_level']


@dataclass(frozen=True)
class Change:
    """How one metric differs between the first run and the others.

    Arguments:
        metric: its name.
        levels: the median of its last third, of each run, as text.
        ratio: largest change against the first run, as a factor, as text.
        spreads: the same change in pooled spreads.
        size: the same as a number, for sorting.
    """

    metric: str
    levels: tuple[str, ...]
    ratio: str
    spreads: str
    size: float


def last_level(series: Series) -> tuple[float, float]:
    """Return the median of the last third of a metric's finite points, and 1.4826 times their MAD.

    Example:
        >>> last_level(Series(np.arange(6), np.array([9.0, 9.0, 9.0, 9.0, 1.0, 3.0]), np.zeros(6)))
        (2.0, 1.4826)
    """
    values = series.values[-max(1, len(series.values) // 3) :]
    values = values[np.isfinite(values)]
    if not values.size:
        return math.nan, math.nan
    middle = float(np.median(values))
    return middle, 1.4826 * float(np.median(np.abs(values - middle)))


def find_changes(runs: Sequence[Run], number: int = 25) -> list[Change]:
    """Return the metrics that differ most between the first run and the others, of those that all have."""
    common = [name for name in runs[0].series if all(name in run.series for run in runs[1:])]
    changes = []
    for name in common:
        if name.startswith('monitor/cost/'):
            continue
        levels = [last_level(run.series[name]) for run in runs]
        if not all(math.isfinite(middle) for middle, _ in levels):
            continue
        first, spread = levels[0]
        size, ratio = 0.0, 1.0
        for middle, own in levels[1:]:
            # Half a percent of the level at least: what never varies is not infinitely far away.
            pooled = max(math.hypot(spread, own) / math.sqrt(2), 0.005 * max(abs(first), abs(middle)), 1e-12)
            if abs(middle - first) / pooled >= size:
                size = abs(middle - first) / pooled
                ratio = middle / first if first else math.inf
        shown = tuple(f'{middle:.4g}' for middle, _ in levels)
        changes.append(Change(name, shown, f'{ratio:.3g}x', f'{size:.1f}', size))
    return sorted(changes, key=lambda change: -change.size)[:number]
