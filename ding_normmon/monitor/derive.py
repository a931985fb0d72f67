"""Derives the record of an iteration from the merged rows: calls every metric for its figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from ding_normmon.core.common_figures import MONITOR
from ding_normmon.core.figures import Figures
from ding_normmon.core.record import Record
from ding_normmon.metrics import Metric
from ding_normmon.monitor.metric_calls import MetricCalls, overriding
from ding_normmon.rows.table import RowTable

__all__ = ['RecordBuilder']

_FIELDS = {'derive': 'scalars', 'matrices': 'matrices', 'notes': 'notes'}


class RecordBuilder:
    """Calls the metrics that yield figures, matrices or notes.

    If two metrics yield a figure of the same name, that of the metric which declares the name stays, else that of the
    first one. The other figure is counted, and logged once with the names of both metrics.

    Arguments:
        metrics: all metrics, prepared.
        calls: counts the exceptions of metrics.
        figures: declarations of the metrics.
    """

    def __init__(self, metrics: Sequence[Metric], calls: MetricCalls, figures: Figures) -> None:
        self._calls = calls
        self._figures = figures
        self._records = [
            (metric, [(method, field) for method, field in _FIELDS.items() if overriding([metric], method)])
            for metric in metrics
        ]

    def derive(self, table: RowTable, iteration: int) -> Record:
        """Return the record of an iteration."""
        record = Record(iteration)
        sources: list[tuple[str, dict[str, float]]] = []
        for metric, methods in self._records:
            # `MetricCalls.guarded` is not used here: entering a context costs as much as a few figures.
            try:
                for method, field in methods:
                    found = getattr(metric, method)(table)
                    if method == 'derive':
                        self._add(record.scalars, metric.name, found, sources)
                    else:
                        getattr(record, field).update(found)
            except Exception as error:
                self._calls.fail(metric, 'derive', error)
        return record

    def _add(
        self,
        scalars: dict[str, float],
        source: str,
        pairs: Iterable[tuple[Any, Any]],
        earlier: list[tuple[str, dict[str, float]]],
    ) -> None:
        """Add the figures of one metric; refuse names of the monitor's own and names that are taken."""
        pairs = list(pairs)
        found = _figures(pairs)
        if len(found) < len(pairs):
            for name, times in Counter(name for name, _ in pairs).items():
                if times > 1:
                    self._refuse(name, source, source)
        for name in [name for name in found if name.startswith('monitor/') and self._figures.owner(name) == MONITOR]:
            self._refuse(name, MONITOR, source)
            del found[name]
        for name in scalars.keys() & found.keys():
            other = next((owner for owner, theirs in earlier if name in theirs), 'another metric')
            if self._figures.owner(name) == source:
                self._refuse(name, source, other)
            else:
                self._refuse(name, other, source)
                del found[name]
        scalars.update(found)
        earlier.append((source, found))

    def _refuse(self, name: str, kept: str, left_out: str) -> None:
        what = f'{kept} yields {name} twice' if kept == left_out else f'{name} comes from {kept} and from {left_out}'
        stays = 'the last' if kept == left_out else f'that of {kept}'
        self._calls.lost_data.count(
            'name_taken', f'{what}; {stays} stays. Give the other one a name of its own', about=name
        )


def _figures(pairs: Iterable[tuple[Any, Any]]) -> dict[str, float]:
    """Return names and plain floats.

    Raises:
        TypeError: a name that is no text, or a value that is no number.

    >>> _figures([('a', 0.5), ('b', 2)])
    {'a': 0.5, 'b': 2.0}
    """
    figures = dict(pairs)
    for name, value in figures.items():
        if type(value) is not float:
            if isinstance(value, (str, bytes)):
                raise TypeError(f'{name}: expected a number, got {value!r}')
            figures[name] = float(value)
        if type(name) is not str:
            raise TypeError(f'expected the name of a figure, got {name!r}')
    return figures
