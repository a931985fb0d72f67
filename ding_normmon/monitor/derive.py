"""From the merged rows of an iteration to its record: every metric is asked for its figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ding_normmon.core.record import Record
from ding_normmon.metrics import Metric
from ding_normmon.monitor.metric_calls import MetricCalls, overriding
from ding_normmon.rows.table import RowTable

__all__ = ['RecordBuilder']

_FIELDS = {'derive': 'scalars', 'matrices': 'matrices', 'notes': 'notes'}


class RecordBuilder:
    """Asks those metrics that have something to say.

    Arguments:
        metrics: all metrics, prepared.
        calls: keeps what a metric raises from whoever asks.
    """

    def __init__(self, metrics: Sequence[Metric], calls: MetricCalls) -> None:
        self._calls = calls
        self._records = [
            (metric, [(method, field) for method, field in _FIELDS.items() if overriding([metric], method)])
            for metric in metrics
        ]
        self._comparing = overriding(metrics, 'compare')

    def derive(self, table: RowTable, iteration: int) -> Record:
        """Return the record of an iteration, but for what depends on the records before it."""
        record = Record(iteration)
        for metric, methods in self._records:
            # Not by `MetricCalls.guarded`: entering a context costs as much as a few figures.
            try:
                for method, field in methods:
                    found = getattr(metric, method)(table)
                    getattr(record, field).update(_figures(found) if method == 'derive' else found)
            except Exception as error:
                self._calls.fail(metric, 'derive', error)
        return record

    def compare(self, record: Record, table: RowTable) -> None:
        """Add what depends on the records before; once for every record, in the order of iterations."""
        for metric in self._comparing:
            try:
                record.scalars.update(_figures(metric.compare(table)))
            except Exception as error:
                self._calls.fail(metric, 'compare', error)


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
