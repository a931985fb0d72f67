"""What a rule sees of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from ding_normmon.diagnose.points import Points, Rows
from ding_normmon.record import Record
from ding_normmon.task_names import task_in, without_task

__all__ = ['Window']


class Window:
    """The newest record, the last points of every metric, and the names of the tasks.

    Arguments:
        tasks: global task id to name; ids that turn up in metrics are added.

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
        self._known = 0
        self._matched: dict[str, tuple[re.Pattern[str], dict[str, None], set[str]]] = {}

    def add(self, record: Record) -> None:
        """Take the next record."""
        self.record = record
        # What is left of a gradient with NaN in it, often 0, says nothing about the gradient.
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
                self._families.setdefault(without_task(names[row]), {})[task_id] = row
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
        return dict(sorted(self._families.get(family, {}).items()))

    def ready(self, family: str, points: int, age: int = 0) -> tuple[list[int], Rows]:
        """Return tasks and rows of a per-task metric that has had enough points and is not too old.

        Arguments:
            family: the name without its task.
            points: the fewest.
            age: records for which the newest point may have been missing; more than 0 for what is measured rarely.
        """
        found = self.by_task(family)
        rows = np.fromiter(found.values(), np.intp, len(found))
        enough = self.points.is_fresh(rows, age) & (self.points.counts[rows] >= points)
        return [task_id for task_id, good in zip(found, enough, strict=True) if good], rows[enough]

    def shared(self, name: str, points: int, age: int = 0) -> Rows:
        """Return the row of one metric in an array, which is empty where :meth:`ready` would leave it out."""
        row = self.points.row(name)
        rows = np.array([] if row is None else [row], np.intp)
        return rows[self.points.is_fresh(rows, age) & (self.points.counts[rows] >= points)]

    def matching(self, pattern: str) -> dict[str, float]:
        """Return the newest record's scalars whose whole name matches a regular expression."""
        expression, names, seen = self._matched.setdefault(pattern, (re.compile(pattern), {}, set()))
        scalars = self.record.scalars
        # Names come back record after record: each is compared with an expression once.
        for name in scalars.keys() - seen:
            seen.add(name)
            if expression.fullmatch(name):
                names[name] = None
        return {name: scalars[name] for name in names if name in scalars}

    def call(self, task_id: int) -> str:
        """Return what a sentence calls a task."""
        name = self.tasks.get(task_id, '')
        return f'Task {task_id}' if name in ('', f'task {task_id}', f'task{task_id}') else f'Task {task_id} ({name})'

    def mention(self, task_id: int) -> str:
        """Return what the middle of a sentence calls a task."""
        return f't{self.call(task_id)[1:]}'
