"""From the merged rows of an iteration to its record: every quantity is asked for its figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ding_normmon.core.record import Record
from ding_normmon.metrics import Quantity
from ding_normmon.monitor.metric_calls import QuantityCalls, overriding
from ding_normmon.rows.table import RowTable

__all__ = ['Deriving']

_FIELDS = {'derive': 'scalars', 'matrices': 'matrices', 'notes': 'notes'}


class Deriving:
    """Asks those quantities that have something to say.

    Arguments:
        quantities: all quantities, prepared.
        calls: keeps what a quantity raises from whoever asks.
    """

    def __init__(self, quantities: Sequence[Quantity], calls: QuantityCalls) -> None:
        self._calls = calls
        self._deriving = [
            (quantity, [(method, field) for method, field in _FIELDS.items() if overriding([quantity], method)])
            for quantity in quantities
        ]
        self._comparing = overriding(quantities, 'compare')

    def derive(self, table: RowTable, iteration: int) -> Record:
        """Return the record of an iteration, but for what depends on the records before it."""
        record = Record(iteration)
        for quantity, methods in self._deriving:
            # Not by `QuantityCalls.guarded`: entering a context costs as much as a few figures.
            try:
                for method, field in methods:
                    found = getattr(quantity, method)(table)
                    getattr(record, field).update(_figures(found) if method == 'derive' else found)
            except Exception as error:
                self._calls.fail(quantity, 'derive', error)
        return record

    def compare(self, record: Record, table: RowTable) -> None:
        """Add what depends on the records before; once for every record, in the order of iterations."""
        for quantity in self._comparing:
            try:
                record.scalars.update(_figures(quantity.compare(table)))
            except Exception as error:
                self._calls.fail(quantity, 'compare', error)


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
