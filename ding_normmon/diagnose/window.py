"""The view of a run that the rules read."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping

import numpy as np

from ding_normmon.core.metric_names import task_in, without_task
from ding_normmon.core.record import Record
from ding_normmon.diagnose.points import Points, Rows

__all__ = ['Window']


class Window:
    """The newest record, the last points of every metric, and the names of the tasks.

    Arguments:
        tasks: global task id to name; ids that appear in metrics are added.

    Attributes:
        points: the last points of every metric.
        record: the newest record.

    Example:
        >>> window = Window({0: 'Pong', 1: 'Qbert'})
        >>> window.add(Record(0, {'grad/head_value_task0/_total_norm': 1.0, 'grad/head_value_task1/_total_norm': 2.0}))
        >>> window.by_task('grad/head_value/_total_norm')
        {0: 0, 1: 1}
        >>> window.call(1)
        'Task 1 (Qbert)'
    """

    def __init__(self, tasks: Mapping[int, str]) -> None:
        self.tasks = dict(tasks)
        self.points = Points()
        self.record = Record(-1)
        self._families: dict[str, dict[int, int]] = {}
        # The same, sorted; dropped when a task joins.
        self._sorted: dict[str, tuple[dict[int, int], Rows]] = {}
        self._known = 0
        self._names: dict[str, None] = {}
        self._matched: dict[str, tuple[re.Pattern[str], list[str], int]] = {}

    def add(self, record: Record) -> None:
        """Add the next record."""
        self.record = record
        self._names.update(dict.fromkeys(record.scalars))
        # The norm of the finite part of a gradient with NaN, often 0, says nothing about the gradient.
        broken = {
            name.removeprefix('monitor/nonfinite/') + '/_total_norm'
            for name in record.scalars
            if name.startswith('monitor/nonfinite/grad/')
        }
        scalars = {name: value for name, value in record.scalars.items() if name not in broken}
        self.points.add(record.iteration, scalars)
        names = self.points.names
        for row in range(self._known, len(names)):
            task_id = task_in(names[row])
            if task_id is not None:
                family = without_task(names[row])
                self._families.setdefault(family, {})[task_id] = row
                self._sorted.pop(family, None)
                self.tasks.setdefault(task_id, f'task {task_id}')
        self._known = len(names)

    @property
    def iteration(self) -> int:
        """Iteration of the newest record."""
        return self.record.iteration

    def by_task(self, family: str) -> dict[int, int]:
        """Return the rows of a per-task metric by global task id.

        Arguments:
            family: the name without its task, such as ``grad/head_value/_total_norm``.
        """
        return self._tasks_of(family)[0]

    def _tasks_of(self, family: str) -> tuple[dict[int, int], Rows]:
        found = self._sorted.get(family)
        if found is None:
            tasks = dict(sorted(self._families.get(family, {}).items()))
            found = self._sorted[family] = tasks, np.fromiter(tasks.values(), np.intp, len(tasks))
        return found

    def ready(self, family: str, points: int, age: int = 0) -> tuple[list[int], Rows]:
        """Return tasks and rows of a per-task metric that has had enough points and is not too old.

        Arguments:
            family: the name without its task.
            points: fewest points.
            age: how many records old the newest point may be; more than 0 for metrics that are measured rarely.
        """
        found, rows = self._tasks_of(family)
        enough = self.points.is_fresh(rows, age) & (self.points.counts[rows] >= points)
        if enough.all():
            return list(found), rows
        return [task_id for task_id, good in zip(found, enough, strict=True) if good], rows[enough]

    def shared(self, name: str, points: int, age: int = 0) -> Rows:
        """Return the row of one metric in an array, which is empty if :meth:`ready` would leave it out."""
        row = self.points.row(name)
        latest, counts = self.points.latest, self.points.counts
        ready = row is not None and latest[row] >= self.points.records - 1 - age and counts[row] >= points
        return np.array([row] if ready else [], np.intp)

    def matching(self, pattern: str) -> dict[str, float]:
        """Return the newest record's scalars whose whole name matches a regular expression."""
        expression, names, compared = self._matched.get(pattern) or (re.compile(pattern), [], 0)
        if compared < len(self._names):
            # The same names come in every record, so each is matched only once.
            names += filter(expression.fullmatch, itertools.islice(self._names, compared, None))
            self._matched[pattern] = expression, names, len(self._names)
        scalars = self.record.scalars
        return {name: scalars[name] for name in names if name in scalars}

    def call(self, task_id: int) -> str:
        """Return a task's name for the start of a sentence."""
        name = self.tasks.get(task_id, '')
        return f'Task {task_id}' if name in ('', f'task {task_id}', f'task{task_id}') else f'Task {task_id} ({name})'

    def mention(self, task_id: int) -> str:
        """Return a task's name for the middle of a sentence."""
        return f't{self.call(task_id)[1:]}'
