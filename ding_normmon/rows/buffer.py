"""Storage for the rows of one step, until they are on the host.

On a CPU a row is a NumPy array and is written at once. On an accelerator a row is a tensor that may still be being
computed: it is written into a fixed buffer on the device, and the whole buffer is copied to pinned host memory in one
asynchronous copy.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ding_normmon.rows.moments import Row
from ding_normmon.rows.table import RowKey, Vector

__all__ = ['Pending', 'RowBuffer']

_CAPACITY = 256
"""Rows that a buffer on an accelerator has room for at first; doubled when a step needs more."""

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
        cells: number of raw device cells, for metrics that reduce on the host.

    Attributes:
        bytes: size of all storage, device and host.
    """

    SLOTS = 4
    """Number of steps whose copies may be in flight at the same time."""

    def __init__(self, device: torch.device, cells: int = 0) -> None:
        self.device = device
        self.on_host = device.type == 'cpu'
        self._cells = cells
        self._allocate(cells, 0 if self.on_host else _CAPACITY)
        # Metrics hold views of the first storage, so the cells stay in it when the rows need a larger one.
        self._bound = self.storage
        self.begin(0)

    def _allocate(self, cells: int, capacity: int) -> None:
        size = cells + capacity * 6
        self.storage = torch.zeros(size, dtype=torch.float64, device=self.device)
        self._cells_on_host = self.storage[:cells].numpy() if self.on_host else np.zeros(0)
        self._capacity = capacity
        pinned = self.device.type == 'cuda'
        self._free = [
            _Slot(torch.zeros(size, dtype=torch.float64, pin_memory=pinned), torch.cuda.Event() if pinned else None)
            for _ in range(0 if self.on_host else self.SLOTS)
        ]
        self.bytes = self.storage.nbytes + sum(slot.host.nbytes for slot in self._free)

    def cells(self, start: int, stop: int) -> Tensor:
        """Return a view of some of the cells."""
        return self._bound[start:stop]

    def begin(self, iteration: int) -> None:
        """Discard the rows of the last step and start those of ``iteration``."""
        self._iteration = iteration
        self._keys: list[RowKey] = []
        self._rows: list[_Written] = []
        self._vectors: dict[RowKey, Vector | tuple[int, int]] = {}
        self._used = 0

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
