"""The view of a run that the rules read."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from ding_normmon.core.figures import Figures
from ding_normmon.core.metric_names import task_in, without_task
from ding_normmon.core.record import Record
from ding_normmon.diagnose.departure import Departure
from ding_normmon.diagnose.departures import SPACING, Departures
from ding_normmon.diagnose.points import Points, Rows
from ding_normmon.diagnose.tolerances import TOLERANCES
from ding_normmon.diagnose.wording import call

__all__ = ['Window']

_HEAD = '{}/[^/]+/_total_norm'

_SIGNS_OF_DATA = ('noreduce_value_loss', 'noreduce_policy_loss', 'embeddings/obs/norm_mean', 'logits/value/mean')
"""Figures that every task with data has in every record."""

_QUIET, _LEARNS, _EARLY = 32, 12, 6
"""A task that has had no reward for so many points, five iterations apart, learns from the next one for so many; values
are of a size so many points before a batch with the reward itself may come."""

_ANOTHER = 2.0
"""A reward of so many times the largest so far is another first one."""


class Window:
    """The newest record, the last points of every metric, and the names of the tasks.

    Arguments:
        tasks: global task id to name; ids that appear in metrics are added.
        figures: the declarations of the metrics.
        repeats: whether the same value again is the last measurement, written once more.

    Attributes:
        points: the last points of every metric.
        departures: which figures are away from their past.
        record: the newest record.
        gap: iterations from the record before it.

    Example:
        >>> window = Window({0: 'Pong', 1: 'Qbert'})
        >>> window.add(Record(0, {'grad/head_value_task0/_total_norm': 1.0, 'grad/head_value_task1/_total_norm': 2.0}))
        >>> window.by_task('grad/head_value/_total_norm')
        {0: 0, 1: 1}
        >>> window.call(1)
        'Task 1 (Qbert)'
    """

    def __init__(self, tasks: Mapping[int, str], figures: Figures | None = None, repeats: bool = False) -> None:
        self.tasks = dict(tasks)
        self.points = Points()
        self.departures = Departures(Figures() if figures is None else figures, repeats=repeats)
        self.record = Record(-1)
        self.gap = 1
        self._added = -1
        self._missing: dict[int, int] = {}
        self._rewarded: dict[int | None, int] = {}
        self._first_rewards: dict[int | None, int] = {}
        self._largest_rewards: dict[int | None, float] = {}
        self._families: dict[str, dict[int, int]] = {}
        # The same, sorted; dropped when a task joins.
        self._sorted: dict[str, tuple[dict[int, int], Rows]] = {}
        self._known = 0
        self._names: dict[str, None] = {}
        self._heads: dict[str, list[tuple[str, str]]] = {}
        self._heads_known = -1
        self._matched: dict[str, tuple[re.Pattern[str], list[str], int]] = {}

    def add(self, record: Record) -> None:
        """Add the next record."""
        if self.points.records:
            self.gap = max(1, record.iteration - self._added)
        self._added = record.iteration
        self.show(record)
        # The norm of the finite part of a gradient with NaN, often 0, says nothing about the gradient.
        broken = {
            name.removeprefix('monitor/nonfinite/') + '/_total_norm'
            for name in self.matching('monitor/nonfinite/grad/.*')
        }
        scalars = record.scalars
        if broken:
            scalars = {name: value for name, value in scalars.items() if name not in broken}
        rows, values = self.points.add(scalars)
        names = self.points.names
        self.departures.add(record.iteration, names, rows, values)
        for row in range(self._known, len(names)):
            task_id = task_in(names[row])
            if task_id is not None:
                family = without_task(names[row])
                self._families.setdefault(family, {})[task_id] = row
                self._sorted.pop(family, None)
                self.tasks.setdefault(task_id, f'task {task_id}')
        self._known = len(names)
        self._missing = self._find_missing()
        self._note_rewards()

    @property
    def departed(self) -> list[Departure]:
        """The figures that are away from their past; those of a task that has left are not judged."""
        return [departure for departure in self.departures.current if departure.task not in self._missing]

    def show(self, record: Record) -> None:
        """Let a record be the newest one, without adding its points to the past."""
        self.record = record
        if not record.scalars.keys() <= self._names.keys():
            self._names.update(dict.fromkeys(record.scalars))

    @property
    def names(self) -> Collection[str]:
        """Every metric so far, also those that have not been finite."""
        return self._names.keys()

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

    def heads(self, family: str) -> Sequence[tuple[str, str]]:
        """Return each group that tasks have of their own, with its norm's name without the task.

        Arguments:
            family: ``norm`` or ``grad``.
        """
        if self._heads_known != len(self._families):
            self._heads_known = len(self._families)
            self._heads = {
                kind: [(name.split('/')[1], name) for name in self._families if re.fullmatch(_HEAD.format(kind), name)]
                for kind in ('norm', 'grad')
            }
        return self._heads[family]

    def missing_tasks(self) -> dict[int, int]:
        """Return the tasks whose data used to come and is not in this record, with the records since it last was."""
        return self._missing

    def _find_missing(self) -> dict[int, int]:
        last = self.points.records - 1
        for family in _SIGNS_OF_DATA:
            rows = self.by_task(family)
            latest = {task: int(self.points.latest[row]) for task, row in rows.items() if self.points.counts[row] >= 3}
            if last in latest.values():
                return {task: last - seen for task, seen in latest.items() if seen < last}
        return {}

    def _note_rewards(self) -> None:
        quiet = _QUIET * max(self.gap, SPACING)
        for name, size in self.matching(r'data/reward(?:_task\d+)?/abs_max').items():
            task = task_in(name)
            largest = self._largest_rewards.get(task, 0.0)
            self._largest_rewards[task] = max(size, largest)
            last = self._rewarded.setdefault(task, self.iteration if size else -(10**9))
            if size and (self.iteration - last > quiet or size > _ANOTHER * largest > 0):
                self._first_rewards[task] = self.iteration
            if size:
                self._rewarded[task] = self.iteration

    def has_first_rewards(self, departure: Departure) -> bool:
        """Return whether a figure left when its task got rewards that it had not had for long: it learns from them."""
        first = self._first_rewards.get(departure.task)
        point = max(self.gap, SPACING)
        return first is not None and -_EARLY * point <= departure.since - first <= _LEARNS * point

    def largest_reward(self, task: int | None) -> float:
        """Return the largest absolute reward of a task so far; infinite where rewards are not known."""
        return self._largest_rewards.get(task, math.inf)

    def is_summary(self, departure: Departure) -> bool:
        """Return whether a figure covers all tasks, is there for each of them too, and says no more than these."""
        is_own = departure.figure.stage == 'representation'  # the rank of all vectors is not that of each task's
        return departure.task is None and departure.name in self._families and not is_own

    def owner(self, departure: Departure) -> tuple[str, int | None, float]:
        """Return whose a departure is, and how strong it is as such.

        Returns:
            Whether it is of one ``task``, of ``all`` tasks, or of what is ``shared``; the task; the strength.
        """
        tolerance = TOLERANCES[departure.figure.stage]
        patience = 1.0 if tolerance.grows and departure.shift < 0 else tolerance.alone
        if departure.is_sudden:
            # Training does not move figures from one point to the next, weights least of all.
            patience = 1.0 if tolerance.grows else math.sqrt(patience)
        alone = departure.strength / patience
        if departure.task is None:
            return 'shared', None, alone
        if math.isnan(departure.others):
            return 'task', departure.task, alone
        # What the other tasks do too is not this one's.
        together = max(0.0, departure.others / departure.shift) if departure.shift else 0.0
        if together >= 0.5:
            return 'all', None, alone
        # Nor is it at fault for becoming like the others: its first reward, a loss as large as theirs.
        own = departure.strength * (1 - together) * (0.5 if departure.approaches else 1.0)
        return 'task', departure.task, own / (1.0 if tolerance.is_steady else math.sqrt(patience))

    def call(self, task_id: int) -> str:
        """Return a task's name for the start of a sentence."""
        return call(task_id, self.tasks.get(task_id, ''))
