"""Which rank may report which rows, agreed at the start and changed when tasks move; rank 0 checks every row."""

from __future__ import annotations

import bisect
import operator
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from ding_normmon.core.config import ConfigurationError
from ding_normmon.rows.table import RowKey

__all__ = ['Ownership', 'checked_task_ids']

_DIVISIONS = 64
_CHECKED = 4096


@dataclass(frozen=True)
class _Division:
    """Who trains and who reports which task, from an iteration on."""

    since: int
    trained: tuple[frozenset[int], ...]
    owners: dict[int, int]


class Ownership:
    """The agreed division of tasks over ranks, with its history.

    Every rank that trains a task reports the task's signals; those of several ranks are merged. A parameter group has
    one owner: rank 0 if it is shared, else the lowest rank that trains its task, else the rank that trained it last. A
    second report of a group would double its squared norm, so reports from other ranks are refused. If a group's
    parameters are sharded, every rank reports its part. Rows are checked against the division of their own iteration,
    because messages from before a change arrive after it.

    Arguments:
        num_tasks: number of tasks of the whole run; None for a single-task policy.
        task_ids: global task ids of every rank, by rank.
        owner_only: names of the metrics whose rows belong to parameter groups.
        sharded: name and task id of the groups of which every rank reports its part.

    Attributes:
        sharded: the same; may be changed when the model changes.

    Example:
        >>> ownership = Ownership(3, [[0], [1, 2]], owner_only={'gradient_norms'})
        >>> ownership.change(100, [[0, 1], [2]])
        >>> head = RowKey('gradient_norms', 'head_value', 1)
        >>> [ownership.own_rows(rank, iteration, (head,)) for rank, iteration in ((1, 99), (1, 100), (0, 100))]
        [None, [], None]
    """

    def __init__(
        self,
        num_tasks: int | None,
        task_ids: Sequence[Sequence[int]],
        owner_only: Collection[str] = (),
        sharded: Collection[tuple[str, int | None]] = (),
    ) -> None:
        self._owner_only = frozenset(owner_only)
        self.sharded = frozenset(sharded)
        self._has_tasks = num_tasks is not None
        trained = tuple(frozenset(ids) for ids in task_ids)
        # Tasks that no rank trains at the start are reported by rank 0.
        owners = dict.fromkeys(range(num_tasks or 0), 0)
        self._divisions = [_Division(-1, trained, _owners(owners, trained))]
        self._checked: dict[tuple[int, int, int], tuple[tuple[RowKey, ...], list[int] | None]] = {}

    def change(self, iteration: int, task_ids: Sequence[Sequence[int]]) -> None:
        """Set another division from ``iteration`` on."""
        trained = tuple(frozenset(ids) for ids in task_ids)
        # A new list, so that the background thread never sees one that is being changed.
        earlier = [division for division in self._divisions if division.since < iteration][1 - _DIVISIONS :]
        last = self._divisions[-1]
        self._divisions = [*earlier, _Division(iteration, trained, _owners(last.owners, trained))]

    def owner(self, task_id: int | None) -> int:
        """Return the rank that now reports the parameter groups of a task; None stands for shared groups."""
        return 0 if task_id is None else self._divisions[-1].owners[task_id]

    def own_rows(self, rank: int, iteration: int, keys: tuple[RowKey, ...]) -> list[int] | None:
        """Return the positions of the rows that a rank may report for an iteration; None if it may report all."""
        division = self._division_at(iteration)
        # Ranks send the same keys in every record; while the tuple is kept here, no other one gets its id.
        identity = (rank, division.since, id(keys))
        if identity not in self._checked:
            if len(self._checked) >= _CHECKED:
                self._checked.clear()
            own = [index for index, key in enumerate(keys) if self._may_report(division, rank, key)]
            self._checked[identity] = (keys, None if len(own) == len(keys) else own)
        return self._checked[identity][1]

    def own_keys(self, rank: int, iteration: int, keys: Iterable[RowKey]) -> list[RowKey]:
        """Return the keys that a rank may report for an iteration."""
        division = self._division_at(iteration)
        return [key for key in keys if self._may_report(division, rank, key)]

    def _division_at(self, iteration: int) -> _Division:
        divisions = self._divisions
        return divisions[max(0, bisect.bisect_right([entry.since for entry in divisions], iteration) - 1)]

    def _may_report(self, division: _Division, rank: int, key: RowKey) -> bool:
        if key.metric in self._owner_only:
            owner = 0 if key.task_id is None else division.owners.get(key.task_id)
            return owner == rank or (key.name, key.task_id) in self.sharded
        return key.task_id is None or (self._has_tasks and key.task_id in division.trained[rank])


def _owners(before: dict[int, int], trained: Sequence[Collection[int]]) -> dict[int, int]:
    now = {task: next((rank for rank, ids in enumerate(trained) if task in ids), None) for task in before}
    return {task: rank if rank is not None else before[task] for task, rank in now.items()}


def checked_task_ids(num_tasks: int | None, task_ids: Sequence[int] | None) -> tuple[int, ...]:
    """Return the global ids of the tasks that a rank trains; None stands for all tasks.

    Raises:
        ConfigurationError: an id that is out of range, not an integer or listed twice, or ids without ``num_tasks``.

    >>> checked_task_ids(3, None), checked_task_ids(3, [2, 0])
    ((0, 1, 2), (2, 0))
    """
    given: Any = num_tasks
    if given is not None and (isinstance(given, bool) or not isinstance(given, Integral) or int(given) < 1):
        raise ConfigurationError(f'monitor: num_tasks must be the number of all tasks or None, got {num_tasks!r}')
    if num_tasks is None:
        if task_ids:
            raise ConfigurationError(f'monitor: task ids {list(task_ids)} need num_tasks, the number of all tasks')
        return ()
    try:
        ids = tuple(range(num_tasks)) if task_ids is None else tuple(map(operator.index, task_ids))
    except TypeError as error:
        raise ConfigurationError(f'monitor: task_ids must be global ids such as [0, 3], got {task_ids!r}') from error
    for task_id in ids:
        if not 0 <= task_id < num_tasks:
            raise ConfigurationError(
                f'monitor: task id {task_id} is out of range; with {num_tasks} tasks the nearest is '
                f'{min(max(task_id, 0), num_tasks - 1)}'
            )
    if len(set(ids)) != len(ids):
        raise ConfigurationError(f'monitor: task ids {list(ids)} are not unique')
    return ids
