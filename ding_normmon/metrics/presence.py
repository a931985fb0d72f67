"""Counts signals that are empty, absent or late, as happens now and then in healthy runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from ding_normmon.rows.moments import COUNT, NONFINITE, Row

__all__ = ['Presence']

logger = logging.getLogger('ding_normmon')


class Presence:
    """Remembers which signals each task has published, and counts the exceptions in a record.

    Example:
        >>> import numpy as np
        >>> presence = Presence()
        >>> row = np.array([2., 0., 0., 0., 0., 0.])
        >>> dict(presence.counts({'x_token': {0: row, 1: row}}))
        {}
        >>> dict(presence.counts({'x_token': {0: row}}))
        {'monitor/absent/x_token': 1.0}
    """

    def __init__(self) -> None:
        self._known: set[tuple[str, int | None]] = set()
        self._said: set[tuple[str, str]] = set()

    def counts(self, signals: Mapping[str, Mapping[int | None, Row]]) -> Iterator[tuple[str, float]]:
        """Yield ``monitor/{empty,absent,late}/{signal}``: the number of tasks, if above 0.

        Arguments:
            signals: signal name to task id to row, of one complete record.
        """
        first = not self._known
        for name in {*signals, *(name for name, _ in self._known)}:
            tasks = signals.get(name, {})
            empty = [task for task, row in tasks.items() if row[COUNT] + row[NONFINITE] == 0]
            absent = [task for known, task in self._known if known == name and task not in tasks]
            late = [] if first else [task for task in tasks if (name, task) not in self._known]
            yield from self._tell('empty', name, empty, 'had no valid step')
            yield from self._tell('absent', name, absent, 'was not published')
            yield from self._tell('late', name, late, 'was published for the first time')
        self._known.update((name, task) for name, tasks in signals.items() for task in tasks)

    def _tell(self, kind: str, name: str, tasks: list[int | None], what: str) -> Iterator[tuple[str, float]]:
        if not tasks:
            return
        if (kind, name) not in self._said:
            self._said.add((kind, name))
            of = '' if tasks == [None] else f' of tasks {sorted(task for task in tasks if task is not None)}'
            logger.info('monitor: signal %s%s %s (logged once; counted as monitor/%s/%s)', name, of, what, kind, name)
        yield f'monitor/{kind}/{name}', float(len(tasks))
