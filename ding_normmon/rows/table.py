"""Storage for the rows of one step, and tables that merge the rows of all ranks by key.

On a CPU a row is a NumPy array and is written at once. On an accelerator a row is a tensor that may still be being
computed: it is written into a fixed buffer on the device, and the whole buffer is copied to pinned host memory in one
asynchronous copy.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ding_normmon.rows.moments import COUNT, Row, merge_sets

__all__ = ['Batch', 'Label', 'Pending', 'RowBuffer', 'RowKey', 'RowTable', 'Vector']

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


_Written = Row | tuple[float, ...] | int
"""A table of rows, the numbers of one row, or the position of a row in the buffer."""


@dataclass
class _Slot:
    host: Tensor
    event: torch.cuda.Event | None


@dataclass
class Pending:
    """The rows of one step, which may still be on their way to the host.

    Arguments:
        iteration: 0-based learner iteration that was measured.
        keys: key of each row.
        rows: tables of rows in the order of the keys, numbers of single rows, or positions of rows in the buffer.
        slot: the host memory that receives the copy; None if the rows are on the host already.
        cells: the raw cells, if they are on the host already.
        fired: the hook points that were measured.
        failed: the metrics that failed at one of them; their cells may hold values of another step.
        milliseconds: cost of the step in the learner's thread so far.
        active: the metrics that were measured in this step, with the backward passes they added.
        spent: milliseconds of the learner's thread by metric.
        vectors: each vector, or its position in the buffer: first row and number of entries.
        watched: whether the step lies between two published records.
    """

    iteration: int
    keys: list[RowKey]
    rows: list[_Written]
    slot: _Slot | None = None
    cells: Row = field(default_factory=lambda: np.zeros(0))
    fired: tuple[str, ...] = ()
    failed: frozenset[str] = frozenset()
    milliseconds: float = 0.0
    active: dict[str, int] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    vectors: dict[RowKey, Vector | tuple[int, int]] = field(default_factory=dict)
    watched: bool = False

    def arrived(self) -> bool:
        """Return, without waiting, whether everything is on the host."""
        return self.slot is None or self.slot.event is None or self.slot.event.query()

    def wait(self) -> None:
        """Wait until everything is on the host."""
        if self.slot is not None and self.slot.event is not None:
            self.slot.event.synchronize()


class RowBuffer:
    """Fixed storage for the rows and cells of a step.

    Arguments:
        device: the model's device.
        capacity: number of rows on an accelerator; doubled when a step needs more.

    Attributes:
        bytes: size of all storage, device and host.
    """

    SLOTS = 4
    """Number of steps whose copies may be in flight at the same time."""

    def __init__(self, device: torch.device, cells: int = 0, capacity: int = 256) -> None:
        self.device = device
        self.on_host = device.type == 'cpu'
        self._cells = cells
        self._allocate(cells, 0 if self.on_host else capacity)
        # Metrics hold views of the first storage, so the cells stay in it when the rows need a larger one.
        self._bound = self.storage
        self._begin(0)

    def _allocate(self, cells: int, capacity: int) -> None:
        size = cells + capacity * 6
        self.storage = torch.zeros(size, dtype=torch.float64, device=self.device)
        self._cells_on_host = self.storage[:cells].numpy() if self.on_host else np.zeros(0)
        self._capacity = capacity
        pinned = self.device.type == 'cuda'
        count = 0 if self.on_host else self.SLOTS
        self._free = [
            _Slot(torch.zeros(size, dtype=torch.float64, pin_memory=pinned), torch.cuda.Event() if pinned else None)
            for _ in range(count)
        ]
        self.bytes = self.storage.nbytes + sum(slot.host.nbytes for slot in self._free)

    def cells(self, start: int, stop: int) -> Tensor:
        """Return a view of raw device cells, for metrics that reduce on the host."""
        return self._bound[start:stop]

    def _begin(self, iteration: int) -> None:
        self._iteration = iteration
        self._keys: list[RowKey] = []
        self._rows: list[_Written] = []
        self._vectors: dict[RowKey, Vector | tuple[int, int]] = {}
        self._used = 0

    def begin(self, iteration: int) -> None:
        """Discard the rows of the last step and start those of ``iteration``."""
        self._begin(iteration)

    def __len__(self) -> int:
        return len(self._keys)

    def write(self, key: RowKey, row: Row | Tensor) -> None:
        """Write one row: a tensor on its device, or an array on the host.

        Raises:
            ValueError: not a row.
        """
        if tuple(row.shape) != (6,):
            raise ValueError(f'expected a row of 6 columns, got shape {tuple(row.shape)}')
        if not isinstance(row, Tensor) and row.dtype.kind not in 'fiu':
            raise ValueError(f'expected a row of numbers, got {row.dtype}')
        if isinstance(row, Tensor) and row.is_complex():
            raise ValueError(f'expected a row of real numbers, got {row.dtype}')
        if not isinstance(row, Tensor):
            self._rows.append(row.reshape(1, 6))
        elif self.on_host:
            self._rows.append(row.numpy().astype(np.float64).reshape(1, 6))
        else:
            self._make_room(1)
            start = self._cells + self._used * 6
            self.storage[start : start + 6].copy_(row)
            self._rows.append(self._used)
            self._used += 1
        self._keys.append(key)

    def write_rows(self, keys: Sequence[RowKey], rows: Tensor) -> None:
        """Write a table of rows, float64, shape (len(keys), 6), that was made on an accelerator: one operation."""
        if tuple(rows.shape) != (len(keys), 6):
            raise ValueError(f'expected {len(keys)} rows of 6 columns, got shape {tuple(rows.shape)}')
        self._make_room(len(keys))
        start = self._cells + self._used * 6
        self.storage[start : start + rows.numel()].view(-1, 6).copy_(rows)
        self._rows.extend(range(self._used, self._used + len(keys)))
        self._keys.extend(keys)
        self._used += len(keys)

    def write_numbers(self, key: RowKey, row: tuple[float, float, float, float, float, float]) -> None:
        """Write one row as six numbers on the host, which costs a tenth of an array."""
        self._rows.append(row)
        self._keys.append(key)

    def write_vector(self, key: RowKey, vector: Vector | Tensor) -> None:
        """Write a float64 vector of any length.

        On an accelerator it is stored in as many rows as it needs, so it is part of the step's one copy. A second
        vector of the same key and length is added to the first, as those of several ranks are.

        Raises:
            ValueError: not one dimension, or empty.
        """
        if vector.ndim != 1 or len(vector) == 0:
            raise ValueError(f'expected a vector, got shape {tuple(vector.shape)}')
        earlier = self._vectors.get(key)
        if not isinstance(vector, Tensor) or self.on_host:
            array = (vector.detach().numpy() if isinstance(vector, Tensor) else vector).astype(np.float64)
            if isinstance(earlier, np.ndarray) and len(earlier) == len(array):
                array = array + earlier
            self._vectors[key] = array
        elif isinstance(earlier, tuple) and earlier[1] == len(vector):
            start = self._cells + earlier[0] * 6
            self.storage[start : start + len(vector)].add_(vector.detach())
        else:
            size = -(-len(vector) // 6)
            self._make_room(size)
            start = self._cells + self._used * 6
            self.storage[start : start + len(vector)].copy_(vector.detach())
            self._vectors[key] = (self._used, len(vector))
            self._used += size

    def write_vectors(self, keys: Sequence[RowKey], vectors: Tensor) -> None:
        """Write vectors of one length, shape (len(keys), length), that were made on an accelerator: one operation."""
        count, length = vectors.shape
        if count != len(keys) or length == 0:
            raise ValueError(f'expected {len(keys)} vectors, got shape {tuple(vectors.shape)}')
        size = -(-length // 6)
        self._make_room(count * size)
        start = self._cells + self._used * 6
        self.storage[start : start + count * size * 6].view(count, size * 6)[:, :length].copy_(vectors)
        for key in keys:
            self._vectors[key] = (self._used, length)
            self._used += size

    def _make_room(self, rows: int) -> None:
        if self._used + rows > self._capacity:
            old = self.storage
            self._allocate(self._cells, max(2 * self._capacity, self._used + rows, 64))
            self.storage[: len(old)].copy_(old)

    def end(self) -> Pending | None:
        """Start the step's one copy to the host and return the pending rows; None if no slot is free."""
        if self.on_host:
            cells = self._cells_on_host.copy()
            return Pending(self._iteration, self._keys, self._rows, cells=cells, vectors=self._vectors)
        if not self._free:
            return None
        slot = self._free.pop()
        if self.storage is not self._bound:
            self.storage[: self._cells].copy_(self._bound[: self._cells])
        stop = self._cells + self._used * 6
        slot.host[:stop].copy_(self.storage[:stop], non_blocking=True)
        if slot.event is not None:
            slot.event.record()
        return Pending(self._iteration, self._keys, self._rows, slot, vectors=self._vectors)

    def read(self, pending: Pending) -> tuple[Row, Row]:
        """Return the rows, shape (len(keys), 6), and the raw cells of a step whose copy has arrived, and free its slot.

        Afterwards ``pending.vectors`` are on the host.
        """
        if pending.slot is None:
            return _joined(pending.rows, None), pending.cells
        host = pending.slot.host.numpy()
        rows = _joined(pending.rows, host[self._cells :].reshape(-1, 6))
        for key, place in pending.vectors.items():
            if isinstance(place, tuple):
                start = self._cells + 6 * place[0]
                pending.vectors[key] = host[start : start + place[1]].copy()
        cells = host[: self._cells].copy()
        if len(pending.slot.host) == len(self.storage):
            self._free.append(pending.slot)
        return rows, cells


def _joined(rows: Sequence[_Written], table: Row | None) -> Row:
    tables = []
    for kind, run in itertools.groupby(rows, type):
        if kind is np.ndarray:
            tables += cast(list[Row], list(run))
        elif kind is tuple:
            tables.append(np.array(list(run), dtype=np.float64))
        elif table is not None:
            tables.append(table[cast(list[int], list(run))])
    return np.concatenate(tables) if tables else np.zeros((0, 6))
