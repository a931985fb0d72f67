"""What the monitor costs: its own milliseconds, bytes and messages, as a whole and by quantity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from ding_normmon.moments import MAXIMUM, MEAN, Row, constant_row
from ding_normmon.quantities.quantity import Quantity
from ding_normmon.rows import RowKey, RowTable

__all__ = ['OwnCost']


class OwnCost(Quantity):
    """``monitor/cost/{ms,bytes,messages}``: learner-thread milliseconds of the slowest rank, buffer bytes of the
    largest, messages of all; ``monitor/cost/{quantity}/{ms,bytes,extra_backward}``: the same for one quantity that was
    measured in this record, and the backward passes that it added.

    On an accelerator milliseconds are those in which the learner's thread was busy queueing work.
    """

    name: ClassVar[str] = 'own_cost'

    def rows_of(self, milliseconds: float, num_bytes: int, messages: int) -> Iterator[tuple[RowKey, Row]]:
        """Yield this rank's rows; the monitor calls it last, when the figures are known."""
        for part, value in (('ms', milliseconds), ('bytes', num_bytes), ('messages', messages)):
            yield RowKey(self.name, part), constant_row(value)

    def rows_per_quantity(
        self, milliseconds: Mapping[str, float], num_bytes: Mapping[str, int], extra_backward: Mapping[str, int]
    ) -> Iterator[tuple[RowKey, Row]]:
        """Yield the rows of every quantity that was measured.

        Arguments:
            milliseconds: by quantity.
            num_bytes: by quantity, what it keeps between steps and sends.
            extra_backward: by quantity, for those that were measured.
        """
        for name, passes in extra_backward.items():
            if name != self.name:
                yield RowKey(self.name, name, part='ms'), constant_row(milliseconds.get(name, 0.0))
                yield RowKey(self.name, name, part='bytes'), constant_row(num_bytes[name])
                if passes:
                    yield RowKey(self.name, name, part='extra_backward'), constant_row(passes)

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield the three figures."""
        for name, tasks in table.of(self.name).items():
            row = tasks[None]
            total = float(row[MEAN] * row[0]) if name == 'messages' else float(row[MAXIMUM])
            yield f'monitor/cost/{name}', total
        for part in ('ms', 'bytes', 'extra_backward'):
            for name, tasks in table.of(self.name, part).items():
                yield f'monitor/cost/{name}/{part}', float(tasks[None][MAXIMUM])
