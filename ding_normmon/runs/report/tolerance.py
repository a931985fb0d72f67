"""``--fail-if``: when a metric has left what is tolerated."""

from __future__ import annotations

import fnmatch
import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ding_normmon.runs import Run, Series
from ding_normmon.runs.report.changes import last_level

__all__ = ['Tolerance', 'ToleranceError']

_EXPRESSION = re.compile(r'\s*(\S+)\s*(>=|<=|>|<)\s*([-+0-9.eE]+)\s*(x?)\s*')
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    '>': operator.gt,
    '<': operator.lt,
    '>=': operator.ge,
    '<=': operator.le,
}


class ToleranceError(ValueError):
    """An expression that cannot be read."""


@dataclass(frozen=True)
class Tolerance:
    """When a comparison of runs fails.

    Arguments:
        metric: a name, or a pattern with ``*`` and ``?``.
        sign: ``>``, ``<``, ``>=`` or ``<=``.
        limit: the number.
        is_relative: whether the level is divided by the first run's before it is compared.

    Example:
        >>> Tolerance.read('grad/encoder/_total_norm > 1.5x')
        Tolerance(metric='grad/encoder/_total_norm', sign='>', limit=1.5, is_relative=True)
    """

    metric: str
    sign: str
    limit: float
    is_relative: bool

    @classmethod
    def read(cls, text: str) -> Tolerance:
        """Return what an expression says.

        Raises:
            ToleranceError: it is none.
        """
        found = _EXPRESSION.fullmatch(text)
        try:
            if found is None:
                raise ValueError
            return cls(found[1], found[2], float(found[3]), found[4] == 'x')
        except ValueError:
            raise ToleranceError(
                f'--fail-if {text!r}: expected a metric, one of > < >= <=, and a number, with an x where it is a '
                "factor, such as 'grad/encoder/_total_norm > 1.5x'"
            ) from None

    def failures(self, runs: Sequence[Run]) -> list[str]:
        """Return a sentence for every metric of a run that fails, or one that there is no such metric.

        One that is NaN or infinite at its end, or that is not there at the end of the run, fails whatever the limit is.

        The level of a metric is the median of its last third. Relative limits compare with the first run; absolute
        ones hold for every run but the first, or for the only one.
        """
        judged = runs[1:] or runs
        names = [
            name
            for name in dict.fromkeys(n for run in runs for n in run.series)
            if fnmatch.fnmatchcase(name, self.metric)
        ]
        if not names:
            return [f'{self.metric}: no run has such a metric']
        failed = []
        for run in judged:
            for name in names:
                wrong = _why_not_judged(run, name) or (self.is_relative and _why_not_judged(runs[0], name))
                if wrong:
                    failed.append(wrong)
                    continue
                level = last_level(run.series[name])[0]
                if self.is_relative:
                    first = last_level(runs[0].series[name])[0]
                    level = level / first if first else math.nan
                if math.isnan(level) or _COMPARE[self.sign](level, self.limit):
                    unit = 'x' if self.is_relative else ''
                    failed.append(
                        f'{run.name}: {name} is {level:.4g}{unit}, and fails {self.sign} {self.limit:g}{unit}'
                    )
        return failed


def _why_not_judged(run: Run, name: str) -> str:
    """Return why a metric has no level that a limit could be compared with; empty where it has one."""
    if name not in run.series:
        return f'{run.name}: {name} is not there'
    series = run.series[name]
    values = series.values[-max(1, len(series.values) // 3) :]
    broken = int((~np.isfinite(values)).sum())
    if not np.isfinite(values[-1]) or 2 * broken > len(values):
        return f'{run.name}: {name} is NaN or infinite at its end, at {broken} of the last {len(values)} points'
    if _ends_early(run, series):
        return f'{run.name}: {name} is not there at the end; its last point is at iteration {series.iterations[-1]}'
    return ''


def _ends_early(run: Run, series: Series) -> bool:
    """Tell whether a metric is no longer measured in the last third of the run.

    By iterations and by the clock: curves over environment steps have other iterations, and files of other programs
    may hold one curve behind the other.
    """
    for columns in ('iterations', 'times'):
        own = getattr(series, columns)
        last = max(float(getattr(other, columns)[-1]) for other in run.series.values())
        first = min(float(getattr(other, columns)[0]) for other in run.series.values())
        spacing = float(np.median(np.diff(own))) if len(own) > 2 else math.inf
        silent = last - float(own[-1])
        if silent <= (last - first) / 3 or silent <= 3 * spacing:
            return False
    return True
