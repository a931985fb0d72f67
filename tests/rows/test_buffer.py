"""Buffers of rows, on the paths of a CPU and of an accelerator: rows are read as they were written."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ding_normmon.rows import RowBuffer, RowKey
from ding_normmon.rows.moments import row_of


def device_buffer(cells: int = 0, capacity: int = 2) -> RowBuffer:
    """A buffer that behaves as on an accelerator."""
    buffer = RowBuffer(torch.device('cpu'), cells)
    buffer.on_host = False
    buffer._allocate(cells, capacity)
    buffer._bound = buffer.storage
    return buffer


def tensor_row(values: Tensor) -> Tensor:
    """A row that was made on an accelerator."""
    return torch.from_numpy(row_of(values))


@pytest.mark.parametrize('on_host', [True, False])
def test_rows_are_read_in_the_order_they_were_written(on_host: bool) -> None:
    buffer = RowBuffer(torch.device('cpu'), cells=3) if on_host else device_buffer(cells=3)
    for iteration in (5, 10):
        buffer.begin(iteration)
        values: list[Tensor] = [torch.randn(4) for _ in range(9)]
        expected = []
        for index, value in enumerate(values):
            host = index % 3 == 0
            buffer.write(RowKey('a', str(index)), row_of(value) if host else tensor_row(value))
            expected.append(row_of(value).tolist())
        buffer.cells(0, 3).copy_(torch.tensor([1.0, 2.0, float(iteration)]))
        assert len(buffer) == 9
        pending = buffer.end()
        assert pending is not None
        assert pending.iteration == iteration
        pending.wait()
        assert pending.arrived()
        rows, cells = buffer.read(pending)
        assert [key.name for key in pending.keys] == [str(index) for index in range(9)]
        assert [row.tolist() for row in rows] == expected
        assert cells.tolist() == [1, 2, iteration]


def test_a_row_in_flight_is_not_overwritten_by_the_next_step() -> None:
    buffer = device_buffer(cells=1, capacity=8)
    in_flight = []
    for iteration in range(RowBuffer.SLOTS):
        buffer.begin(iteration)
        buffer.write(RowKey('a', 'x'), tensor_row(torch.tensor([float(iteration)])))
        buffer.cells(0, 1).fill_(10.0 * iteration)
        in_flight.append(buffer.end())
    for iteration, pending in enumerate(in_flight):
        assert pending is not None
        rows, cells = buffer.read(pending)
        assert (rows[0][1], cells[0]) == (iteration, 10 * iteration)


def test_without_a_free_slot_a_step_is_given_up() -> None:
    buffer = device_buffer()
    in_flight = [buffer.end() for _ in range(RowBuffer.SLOTS)]
    assert buffer.end() is None
    assert in_flight[0] is not None
    buffer.read(in_flight[0])
    assert buffer.end() is not None


def test_a_buffer_grows_while_copies_are_in_flight() -> None:
    buffer = device_buffer(cells=2, capacity=1)
    cells = buffer.cells(0, 2)
    buffer.begin(0)
    buffer.write(RowKey('a', 'x'), tensor_row(torch.tensor([7.0])))
    cells.fill_(1)
    first = buffer.end()
    size = buffer.bytes
    buffer.begin(1)
    for index in range(100):
        buffer.write(RowKey('a', str(index)), tensor_row(torch.tensor([float(index)])))
    cells.fill_(2)  # the view that was handed out at set-up
    second = buffer.end()
    assert buffer.bytes > size
    assert first is not None
    assert second is not None
    rows, values = buffer.read(first)
    assert (rows[0][1], values.tolist()) == (7, [1, 1])
    rows, values = buffer.read(second)
    assert [row[1] for row in rows] == list(range(100))
    assert values.tolist() == [2, 2]
    assert [buffer.end() is not None for _ in range(RowBuffer.SLOTS)] == [True] * RowBuffer.SLOTS


@pytest.mark.parametrize('row', [np.zeros(5), np.zeros((1, 6)), torch.zeros(3)])
def test_invalid_rows_are_refused(row: np.ndarray | Tensor) -> None:
    buffer = RowBuffer(torch.device('cpu'))
    with pytest.raises(ValueError, match='row of 6 columns'):
        buffer.write(RowKey('a', 'x'), row)
    assert len(buffer) == 0
