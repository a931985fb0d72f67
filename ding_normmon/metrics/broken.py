"""Rows that name what is broken, and the figures and notes that come of them."""

from __future__ import annotations

from collections.abc import Iterator

from ding_normmon.rows.moments import MAXIMUM
from ding_normmon.rows.table import RowTable

__all__ = ['broken_counts', 'broken_notes', 'group_key']

_MOST_NAMED = 4


def group_key(name: str, task_id: int | None) -> str:
    """Return what a group is called in figures.

    >>> group_key('head_value', 3)
    'head_value_task3'
    """
    return name if task_id is None else f'{name}_task{task_id}'


def _paths(table: RowTable, metric: str, kinds: tuple[str, ...]) -> dict[str, list[str]]:
    """Return, by figure, the paths of parameters whose rows ``{kind}/{path}`` are above 0."""
    if metric not in table.memo:
        found: dict[str, list[str]] = {}
        for key in table:
            if key.metric != metric:
                continue
            kind, _, path = key.part.partition('/')
            if kind in kinds and table[key][MAXIMUM] > 0:
                found.setdefault(f'broken/{kind}/{group_key(key.name, key.task_id)}', []).append(path)
        table.memo[metric] = found
    known: dict[str, list[str]] = table.memo[metric]
    return known


def broken_counts(table: RowTable, metric: str, kinds: tuple[str, ...]) -> Iterator[tuple[str, float]]:
    """Yield ``broken/{kind}/{group}``: the number of parameters of which a row ``{kind}/{path}`` says so."""
    for name, paths in _paths(table, metric, kinds).items():
        yield name, float(len(paths))


def broken_notes(table: RowTable, metric: str, kinds: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield which parameters those are, a few of them by name."""
    for name, paths in _paths(table, metric, kinds).items():
        more = len(paths) - _MOST_NAMED
        yield name, ', '.join(paths[:_MOST_NAMED]) + (f' and {more} more' if more > 0 else '')
