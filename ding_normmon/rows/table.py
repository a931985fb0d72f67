"""Rows under their keys: the batch of one rank, and the table in which the rows of all ranks are merged."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from ding_normmon.rows.moments import COUNT, Row, merge_sets

__all__ = ['Batch', 'Label', 'RowKey', 'RowTable', 'Vector']

Vector = npt.NDArray[np.float32] | npt.NDArray[np.float64]
"""Data that does not fit a row, such as the sketch of a gradient: one dimension, float32 or float64."""

_LAYOUTS_KEPT = 4

Label = tuple[str, int | None]
"""Name of a group or signal, and task id."""


class RowKey(NamedTuple):
    """The key of a row.

    Arguments:
        metric: name of the metric that writes the row and derives figures from it.
        name: group or signal.
        task_id: global task id, or None.
        part: further distinction, such as a parameter's path.
    """

    metric: str
    name: str
    task_id: int | None = None
    part: str = ''


@dataclass
class Batch:
    """The rows of one rank for one iteration, on the host.

    Arguments:
        iteration: 0-based learner iteration that was measured.
        keys: key of each row.
        rows: float64, shape (len(keys), 6).
        vectors: vectors by key.
        watched: whether it was measured between two published records.
    """

    iteration: int
    keys: tuple[RowKey, ...]
    rows: Row
    vectors: Mapping[RowKey, Vector] = field(default_factory=dict)
    watched: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        return self.rows.nbytes + sum(vector.nbytes for vector in self.vectors.values())


class _Layout:
    """Positions of each key's rows in the concatenated rows of all batches.

    Ranks send the same keys in every record, so this is computed once and reused.
    """

    def __init__(self, schemas: tuple[tuple[RowKey, ...], ...]) -> None:
        self.schemas = schemas
        positions: dict[RowKey, list[int]] = {}
        for position, key in enumerate(key for keys in schemas for key in keys):
            positions.setdefault(key, []).append(position)
        self.index = {key: index for index, key in enumerate(positions)}
        self.first = np.array([found[0] for found in positions.values()], dtype=np.intp)
        repeated = {index: found for index, found in enumerate(positions.values()) if len(found) > 1}
        self.repeated = list(repeated)
        self.repeated_rows = [position for found in repeated.values() for position in found]
        self.repeated_times = [len(found) for found in repeated.values()]
        self.parts: dict[tuple[str, str], list[tuple[str, int | None, int]]] = {}
        for key in sorted(positions, key=lambda key: -1 if key.task_id is None else key.task_id):
            self.parts.setdefault((key.metric, key.part), []).append((key.name, key.task_id, self.index[key]))
        self._blocks: dict[tuple[str, str], tuple[tuple[Label, ...], npt.NDArray[np.intp]]] = {}

    def block(self, metric: str, part: str) -> tuple[tuple[Label, ...], npt.NDArray[np.intp]]:
        """Return the labels of the rows of one part, grouped by name, and their positions."""
        found = self._blocks.get((metric, part))
        if found is None:
            entries = self.parts.get((metric, part), ())
            order = list(dict.fromkeys(name for name, _, _ in entries))
            entries = sorted(entries, key=lambda entry: order.index(entry[0]))
            labels = tuple((name, task_id) for name, task_id, _ in entries)
            found = labels, np.array([index for _, _, index in entries], dtype=np.intp)
            self._blocks[metric, part] = found
        return found


class RowTable(Mapping[RowKey, Row]):
    """Rows by key, merged over all batches.

    Batches are merged in the given order; the caller sorts them by rank, so that the result does not depend on which
    message arrived first.

    Arguments:
        batches: the ranks' batches of one iteration, sorted by rank.
        complete: whether every rank's batch is present; figures over all tasks exist only then.
        final: whether a record is published from it. It is False for a rank's own figures in between; a metric that
            keeps the last record must ignore those.

    Attributes:
        ranks: number of batches.
        vectors: the ranks' vectors; vectors of one key are added up.
        unequal: keys of vectors with different lengths on different ranks, which cannot be added.
        memo: cache for results that a metric needs again, by its name.
    """

    _layouts: ClassVar[dict[tuple[int, ...], _Layout]] = {}
    # A lock, because every monitor of a process has its own background thread.
    _layouts_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, batches: Iterable[Batch], complete: bool = True, final: bool = True) -> None:
        self.complete = complete
        self.final = final
        batches = list(batches)
        self.ranks = len(batches)
        self._layout = self._layout_of(tuple(batch.keys for batch in batches))
        rows = np.concatenate([batch.rows for batch in batches]) if batches else np.zeros((0, 6))
        self._rows = rows[self._layout.first]
        if self._layout.repeated:
            repeated = rows[self._layout.repeated_rows]
            self._rows[self._layout.repeated] = merge_sets(repeated, self._layout.repeated_times)
        self.vectors: dict[RowKey, Vector] = {}
        self.unequal: set[RowKey] = set()
        for batch in batches:
            for key, vector in batch.vectors.items():
                earlier = self.vectors.get(key)
                if earlier is None:
                    self.vectors[key] = vector
                elif len(earlier) == len(vector):
                    self.vectors[key] = earlier + vector
                else:
                    self.unequal.add(key)
        for key in self.unequal:
            del self.vectors[key]
        self.memo: dict[str, Any] = {}

    @classmethod
    def _layout_of(cls, schemas: tuple[tuple[RowKey, ...], ...]) -> _Layout:
        # A layout keeps its tuples of keys alive, so no other tuple gets their ids.
        identity = tuple(map(id, schemas))
        with cls._layouts_lock:
            layout = cls._layouts.get(identity)
            if layout is None:
                layout = _Layout(schemas)
                if len(cls._layouts) >= _LAYOUTS_KEPT:
                    del cls._layouts[next(iter(cls._layouts))]
                cls._layouts[identity] = layout
            return layout

    def __getitem__(self, key: RowKey) -> Row:
        return cast(Row, self._rows[self._layout.index[key]])

    def __iter__(self) -> Iterator[RowKey]:
        return iter(self._layout.index)

    def __len__(self) -> int:
        return len(self._layout.index)

    def complete_for(self, metric: str) -> bool:
        """Return whether every rank has measured a metric in this iteration.

        Ranks may briefly differ in how often they measure, and a metric may fail on one of them. Ranks that measured a
        metric also sent its cost.
        """
        cost = self.get(RowKey('own_cost', metric, part='ms'))
        return self.complete and (cost is None or cost[COUNT] == self.ranks)

    def of(self, metric: str, part: str = '') -> dict[str, dict[int | None, Row]]:
        """Return the rows of one metric as name -> task id -> row, task ids ascending.

        Arguments:
            metric: name of the metric.
            part: only rows of this part.
        """
        found: dict[str, dict[int | None, Row]] = {}
        for name, task_id, index in self._layout.parts.get((metric, part), ()):
            found.setdefault(name, {})[task_id] = self._rows[index]
        return found

    def named(self, metric: str, part: str = '') -> Iterator[tuple[str, Row]]:
        """Yield the rows of one metric with the names of their figures, such as ``head_value_task3``."""
        for name, tasks in self.of(metric, part).items():
            for task_id, row in tasks.items():
                yield name if task_id is None else f'{name}_task{task_id}', row

    def block(self, metric: str, part: str = '') -> tuple[tuple[Label, ...], Row]:
        """Return the rows of one metric as one table, to derive from hundreds of rows at once.

        Arguments:
            metric: name of the metric.
            part: only rows of this part.

        Returns:
            name and task id of each row, grouped by name with ascending task ids, and the rows, shape (N, 6). While the
            ranks send the same keys, the same tuple is returned for every record.

        Example:
            >>> keys = tuple(RowKey('norms', 'head', task_id) for task_id in (1, 0))
            >>> labels, rows = RowTable([Batch(5, keys, np.array([[1.0] * 6, [2.0] * 6]))]).block('norms')
            >>> labels, rows[:, 0].tolist()
            ((('head', 0), ('head', 1)), [2.0, 1.0])
        """
        labels, indices = self._layout.block(metric, part)
        return labels, self._rows[indices]

    def vectors_of(self, metric: str, part: str = '') -> dict[str, dict[int | None, Vector]]:
        """Return the vectors of one metric as name -> task id -> vector, task ids ascending."""
        found: dict[str, dict[int | None, Vector]] = {}
        for key in sorted(self.vectors, key=lambda key: (-1 if key.task_id is None else key.task_id)):
            if key.metric == metric and key.part == part:
                found.setdefault(key.name, {})[key.task_id] = self.vectors[key]
        return found
