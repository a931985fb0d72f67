"""Metrics that count the parameters with which something is wrong, and name a few of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from ding_normmon.core.metric_names import with_task
from ding_normmon.metrics.base import Metric, RowTable
from ding_normmon.rows.moments import MAXIMUM

__all__ = ['BrokenParameters']

_MOST_NAMED = 4


class BrokenParameters(Metric):
    """Base of metrics that write a row with the part ``{kind}/{path}`` for each parameter of a group that is broken.

    Attributes:
        kinds: the kinds of trouble, such as ``unheld``.
    """

    kinds: ClassVar[tuple[str, ...]]

    def _paths(self, table: RowTable) -> dict[str, list[str]]:
        """Return the paths of broken parameters by figure."""
        if self.name not in table.memo:
            found: dict[str, list[str]] = {}
            for key in table:
                if key.metric != self.name:
                    continue
                kind, _, path = key.part.partition('/')
                if kind in self.kinds and table[key][MAXIMUM] > 0:
                    found.setdefault(f'broken/{kind}/{with_task(key.name, key.task_id)}', []).append(path)
            table.memo[self.name] = found
        known: dict[str, list[str]] = table.memo[self.name]
        return known

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield ``broken/{kind}/{group}``, the number of broken parameters."""
        for name, paths in self._paths(table).items():
            yield name, float(len(paths))

    def notes(self, table: RowTable) -> Iterator[tuple[str, str]]:
        """Yield the paths of a few broken parameters."""
        for name, paths in self._paths(table).items():
            more = len(paths) - _MOST_NAMED
            yield name, ', '.join(paths[:_MOST_NAMED]) + (f' and {more} more' if more > 0 else '')
