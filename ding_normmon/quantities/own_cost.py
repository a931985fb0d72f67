"""What the monitor costs: its own milliseconds, bytes and messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from ding_normmon.moments import MAXIMUM, MEAN, Row, constant_row
from ding_normmon.quantities.quantity import Quantity
from ding_normmon.rows import RowKey, RowTable

__all__ = ['OwnCost']


class OwnCost(Quantity):
    """``monitor/cost/{ms,bytes,messages}``: learner-thread milliseconds of the slowest rank, buffer bytes of the
    largest, messages of all."""

    name: ClassVar[str] = 'own_cost'

    def rows_of(self, milliseconds: float, num_bytes: int, messages: int) -> Iterator[tuple[RowKey, Row]]:
        """Yield this rank's rows; the monitor calls it last, when the figures are known."""
        for part, value in (('ms', milliseconds), ('bytes', num_bytes), ('messages', messages)):
            yield RowKey(self.name, part), constant_row(value)

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield the three figures."""
        for name, tasks in table.of(self.name).items():
            row = tasks[None]
            total = float(row[MEAN] * row[0]) if name == 'messages' else float(row[MAXIMUM])
            yield f'monitor/cost/{name}', total
