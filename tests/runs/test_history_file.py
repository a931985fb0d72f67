"""The history file: complete, and readable whatever ended the process."""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ding_normmon.core.destination import RunDescription
from ding_normmon.core.finding import Finding
from ding_normmon.core.record import Matrix, Record
from ding_normmon.runs import Run, RunError, read_run
from ding_normmon.runs.history_file import FILE_NAME, HistoryFile

pytestmark = pytest.mark.slow


def write(path: Path, records: list[Record], close: bool = True) -> None:
    file = HistoryFile(path, {'seed': 3})
    file.begin(RunDescription({0: 'Pong', 1: '<b>"Qbert"</b>'}))
    for record in records:
        file.publish(record)
    if close:
        file.close()


def points(run: Run) -> dict[str, dict[int, float]]:
    return {
        name: dict(zip(series.iterations.tolist(), series.values.tolist(), strict=True))
        for name, series in run.series.items()
    }


def sample(iteration: int) -> Record:
    scalars = {f'metric{number}': iteration + number / 7 for number in range(iteration % 5 + 1)}
    matrix = Matrix(np.array([[1.0, math.nan], [-0.5, 1.0]]), (0, 1), (0, 1), {0: 'Pong', 1: 'Qbert'})
    return Record(
        iteration,
        scalars,
        {'conflict/encoder/cosine': matrix} if iteration % 2 else {},
        {'note': f'at {iteration}'},
        (Finding('odd', 'warning', 1, iteration, 'Odd.', 'Wait.', (1,), ('Qbert',), 'head', {'x': 0.1}),),
    )


numbers = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(st.dictionaries(st.text(min_size=1, max_size=12), numbers, max_size=6), min_size=1, max_size=12))
def test_every_point_comes_back_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, float]]
) -> None:
    path = tmp_path_factory.mktemp('history') / FILE_NAME
    write(path, [Record(10 * number, {'always': 1.0, **row}) for number, row in enumerate(rows)])
    found = points(read_run(path))
    for number, row in enumerate(rows):
        for name, value in {'always': 1.0, **row}.items():
            got = found[name][10 * number]
            assert got == value or (math.isnan(got) and math.isnan(value))
    assert sum(map(len, found.values())) == sum(len({'always': 1.0, **row}) for row in rows)


def test_matrices_notes_findings_tasks_and_configuration_come_back(tmp_path: Path) -> None:
    records = [sample(iteration) for iteration in range(4)]
    write(tmp_path / FILE_NAME, records)
    run = read_run(tmp_path)
    assert run.tasks == {0: 'Pong', 1: '<b>"Qbert"</b>'}
    assert run.configuration == {'seed': 3}
    assert run.warnings == []
    stack = run.matrices['conflict/encoder/cosine']
    assert stack.iterations.tolist() == [1, 3]
    assert stack.rows == (0, 1)
    assert stack.labels == {0: 'Pong', 1: 'Qbert'}
    np.testing.assert_array_equal(stack.values[0], [[1.0, math.nan], [-0.5, 1.0]])
    assert [note.text for note in run.notes] == ['at 0', 'at 1', 'at 2', 'at 3']
    assert run.findings == [record.findings[0] for record in records]
    replayed = list(run.records())
    assert [record.scalars for record in replayed] == [record.scalars for record in records]


def test_wherever_the_file_ends_what_is_before_can_be_read_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    ends = []
    file = HistoryFile(path)
    for iteration in range(6):
        file.publish(Record(iteration, {'a': float(iteration), f'b{iteration}': 1.0}))
        ends.append(path.stat().st_size)
    file.close()
    whole = path.read_bytes()
    for cut in range(0, len(whole) + 1, 37):
        path.write_bytes(whole[:cut])
        complete = sum(end <= cut for end in ends)
        if complete == 0:
            with pytest.raises(RunError):
                read_run(path)
        else:
            run = read_run(path)
            assert points(run)['a'] == {iteration: float(iteration) for iteration in range(complete)}
            # The first bytes of a record are also those of the mark that ends a stream.
            rest = whole[max(end for end in ends if end <= cut) : cut]
            assert bool(run.warnings) == (not b'\xff\xff\xff\xff\0\0\0\0'.startswith(rest))
        write(path, [Record(100, {'a': 7.0, 'new': 1.0})])
        resumed = read_run(path)
        assert points(resumed)['a'] == {**{iteration: float(iteration) for iteration in range(complete)}, 100: 7.0}
        assert resumed.warnings == []


def test_what_a_later_start_measures_again_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    write(tmp_path / FILE_NAME, [Record(0, {'a': 0.0}), Record(10, {'a': 1.0}), Record(20, {'a': 2.0})])
    write(tmp_path / FILE_NAME, [Record(10, {'a': 5.0}), Record(15, {'a': 6.0})])
    assert points(read_run(tmp_path))['a'] == {0: 0.0, 10: 5.0, 15: 6.0}


def write_for_ever(path: Path, told: int) -> None:
    file = HistoryFile(path)
    iteration = 0
    while True:
        file.publish(Record(iteration, {f'metric{n}': iteration + n / 7 for n in range(200)}))
        os.write(told, b'.')  # one byte per record that publish() has returned from
        iteration += 1


_LOOP = """\
import sys
import torch
from ding_normmon import Monitor
from ding_normmon.runs.history_file import HistoryFile

model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
with Monitor(model, {'monitor_norm_freq': 1}, optimizer=optimizer, destinations=[HistoryFile(sys.argv[1])]):
    while True:
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
"""


@pytest.mark.slow
@pytest.mark.full
def test_sigterm_in_the_middle_of_training_leaves_what_was_written(tmp_path: Path) -> None:
    """As a cluster ends a job: the process dies at once, and what is in the file is whole."""
    path = tmp_path / FILE_NAME
    process = subprocess.Popen([sys.executable, '-c', _LOOP, str(path)])
    try:
        until = time.monotonic() + 200
        while time.monotonic() < until and not (path.exists() and path.stat().st_size > 30_000):
            time.sleep(0.05)
    finally:
        process.terminate()
        process.wait(timeout=60)
    assert process.returncode == -signal.SIGTERM
    run = read_run(tmp_path)
    iterations = run.series['grad/model/_total_norm'].iterations
    # Of fast steps not all are measured, but what is in the file is whole and in order.
    assert len(iterations) > 10
    assert sorted(set(iterations)) == list(iterations)
    assert run.warnings == []


@pytest.mark.slow
def test_fifty_kills_at_random_moments_lose_nothing_that_was_written(tmp_path: Path) -> None:
    chance = random.Random(1)
    path = tmp_path / FILE_NAME
    fork = multiprocessing.get_context('fork')
    for _ in range(50):
        path.unlink(missing_ok=True)
        reading, writing = os.pipe()
        process = fork.Process(target=write_for_ever, args=(path, writing))
        process.start()
        os.close(writing)
        told = len(os.read(reading, 1))
        time.sleep(chance.uniform(0, 0.03))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        while received := os.read(reading, 1 << 16):
            told += len(received)
        os.close(reading)
        run = read_run(path)
        for number in (0, 199):
            values = run.series[f'metric{number}'].values
            assert len(values) >= told >= 1
            np.testing.assert_array_equal(values, np.arange(len(values)) + number / 7)


def test_a_full_disk_loses_nothing_once_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = HistoryFile(tmp_path / FILE_NAME)
    file.publish(Record(0, {'a': 0.0}))
    really = os.pwrite
    monkeypatch.setattr(os, 'pwrite', lambda file, data, end: really(file, data[: len(data) // 2], end))
    for iteration in (1, 2):
        with pytest.raises(OSError, match='disk is full'):
            file.publish(Record(iteration, {'a': float(iteration), f'late{iteration}': 1.0}))
        assert points(read_run(tmp_path))['a'] == {0: 0.0}
    monkeypatch.undo()
    file.publish(Record(3, {'a': 3.0}))
    file.close()
    run = read_run(tmp_path)
    assert points(run) == {'a': {0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0}, 'late1': {1: 1.0}, 'late2': {2: 1.0}}


def test_a_removed_folder_is_said(tmp_path: Path) -> None:
    path = tmp_path / 'run' / FILE_NAME
    file = HistoryFile(path)
    file.publish(Record(0, {'a': 0.0}))
    path.unlink()
    with pytest.raises(FileNotFoundError, match='no longer there'):
        file.publish(Record(1, {'a': 0.0}))


def test_plain_arrow_reads_it(tmp_path: Path) -> None:
    write(tmp_path / FILE_NAME, [sample(iteration) for iteration in range(3)])
    table = pa.ipc.open_stream(pa.memory_map(str(tmp_path / FILE_NAME))).read_all()
    assert set(table.column_names) == {'iteration', 'time', 'kind', 'name', 'value', 'text'}


def test_a_million_points_come_back(tmp_path: Path) -> None:
    names = [f'metric{number}' for number in range(500)]
    write(
        tmp_path / FILE_NAME, [Record(iteration, dict.fromkeys(names, float(iteration))) for iteration in range(2000)]
    )
    run = read_run(tmp_path)
    assert len(run.series) == 500
    assert all(len(series.values) == 2000 for series in run.series.values())
