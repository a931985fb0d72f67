"""Tables of rows: rows of one key are merged, vectors of one key are added up."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
import torch

from ding_normmon.rows import Batch, RowKey, RowTable, moments
from ding_normmon.rows.moments import MEAN, constant_row, row_of


def batch_of(rows: dict[RowKey, np.ndarray], iteration: int = 0) -> Batch:
    return Batch(iteration, tuple(rows), np.array(list(rows.values())).reshape(-1, 6))


def test_rows_of_one_key_are_merged_over_the_ranks() -> None:
    key = RowKey('tensor_statistics', 'logits/value', 0)
    parts = [torch.randn(size) + size for size in (3, 1, 7)]
    table = RowTable([batch_of({key: row_of(part)}) for part in parts])
    everything = torch.cat(parts).double()
    assert moments.std(table[key]) == pytest.approx(everything.std().item(), rel=1e-9)
    assert table[key][MEAN] == pytest.approx(everything.mean().item(), rel=1e-9)
    assert len(table) == 1


def test_rows_of_a_metric_by_name_and_ascending_task() -> None:
    keys = [RowKey('a', 'x', 10), RowKey('a', 'x', 2), RowKey('a', 'x'), RowKey('a', 'y', 1), RowKey('b', 'x', 0)]
    parts = [RowKey('a', 'x', 2, 'part')]
    table = RowTable([batch_of({key: constant_row(index) for index, key in enumerate(keys + parts)})])
    found = table.of('a')
    assert {name: list(tasks) for name, tasks in found.items()} == {'x': [None, 2, 10], 'y': [1]}
    assert found['x'][10][1] == 0
    assert {name: list(tasks) for name, tasks in table.of('a', 'part').items()} == {'x': [2]}
    assert table.of('c') == {}


def test_a_block_holds_the_same_rows_with_names_together() -> None:
    keys = [RowKey('a', 'x', 10), RowKey('a', 'y', 1), RowKey('a', 'x', 2), RowKey('b', 'x', 0), RowKey('a', 'y')]
    keys += [RowKey('a', 'x', 2, 'part')]
    schema = tuple(keys)
    rows = np.stack([constant_row(index) for index in range(len(keys))])
    table = RowTable([Batch(0, schema, rows)])
    labels, block = table.block('a')
    assert labels == (('y', None), ('y', 1), ('x', 2), ('x', 10))
    flat = {(name, task_id): row for name, tasks in table.of('a').items() for task_id, row in tasks.items()}
    assert {label: row.tolist() for label, row in zip(labels, block, strict=True)} == {
        label: row.tolist() for label, row in flat.items()
    }
    assert table.block('a', 'part')[1][:, 1].tolist() == [5.0]
    assert table.block('c')[1].shape == (0, 6)
    # The next record with the same keys has the same labels, by which a metric knows them again.
    again, later = RowTable([Batch(1, schema, rows + 1)]).block('a')
    assert again is labels
    assert later[:, 1].tolist() == (block[:, 1] + 1).tolist()


def test_a_missing_key_is_missing() -> None:
    with pytest.raises(KeyError):
        RowTable([])[RowKey('a', 'x')]


def test_vectors_of_several_ranks_are_added_up() -> None:
    key, other = RowKey('a', 'x', 1, 'sketch'), RowKey('a', 'x', 0, 'sketch')
    batches = [
        Batch(0, (), np.zeros((0, 6)), {key: np.array([1.0, 2.0])}),
        Batch(0, (), np.zeros((0, 6)), {key: np.array([10.0, 20.0]), other: np.array([5.0])}),
    ]
    found = RowTable(iter(batches)).vectors_of('a', 'sketch')
    assert list(found['x']) == [0, 1]
    assert found['x'][1].tolist() == [11, 22]
    assert batches[0].vectors[key].tolist() == [1, 2]
    assert RowTable(batches).vectors_of('a') == {}


def test_tables_are_made_in_several_threads() -> None:
    failed: list[BaseException] = []

    def make(thread: int) -> None:
        try:
            for number in range(400):
                keys = tuple(RowKey('quantity', f'name {thread} {index}', index) for index in range(3))
                table = RowTable([Batch(0, keys, np.full((3, 6), float(number)))])
                assert table[keys[1]][0] == number
        except BaseException as error:
            failed.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=make, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failed == []


def test_vectors_of_different_lengths_have_no_sum() -> None:
    keys = (RowKey('quantity', 'a'),)
    vectors = [{RowKey('quantity', 'v'): np.ones(length), RowKey('quantity', 'w'): np.ones(2)} for length in (2, 3, 2)]
    table = RowTable([Batch(0, keys, np.zeros((1, 6)), given) for given in vectors])
    assert table.unequal == {RowKey('quantity', 'v')}
    assert {key.name: vector.tolist() for key, vector in table.vectors.items()} == {'w': [3.0, 3.0]}
