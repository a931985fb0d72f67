"""Reading runs: event files of ours and of others, exports, and what is no run."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tensorboardX import SummaryWriter

from ding_normmon.cli import main as command_line
from ding_normmon.core.destination import RunDescription
from ding_normmon.core.record import Matrix, Record
from ding_normmon.runs import RunError, read_run
from ding_normmon.runs.history_file import HistoryFile


def write_events(folder: Path, points: dict[str, dict[int, float]]) -> None:
    writer = SummaryWriter(str(folder))
    for tag, values in points.items():
        for step, value in values.items():
            writer.add_scalar(tag, value, step)
    writer.close()


def test_event_files_are_a_run(tmp_path: Path) -> None:
    write_events(tmp_path, {'grad/head_value_task3/_total_norm': {0: 1.0, 5: math.nan, 10: math.inf}})
    run = read_run(tmp_path)
    values = run.series['grad/head_value_task3/_total_norm']
    assert values.iterations.tolist() == [0, 5, 10]
    np.testing.assert_array_equal(values.values, [1.0, math.nan, math.inf])
    assert run.tasks == {3: 'task 3'}


def test_names_of_di_engines_learner_are_ours(tmp_path: Path) -> None:
    write_events(
        tmp_path / 'log' / 'serial',
        {'learner_iter/grad/encoder/_total_norm_avg': {100: 2.0}, 'learner_iter/cur_lr_avg': {100: 0.1}},
    )
    assert set(read_run(tmp_path).series) == {'grad/encoder/_total_norm', 'learner_iter/cur_lr_avg'}


def test_the_later_of_two_event_files_counts(tmp_path: Path) -> None:
    write_events(tmp_path / 'a', {'x': {0: 1.0, 10: 2.0}})
    write_events(tmp_path / 'b', {'x': {10: 3.0, 20: 4.0}})
    first, second = (next((tmp_path / name).iterdir()) for name in 'ab')
    first.rename(tmp_path / 'events.out.tfevents.1000.host')
    second.rename(tmp_path / 'events.out.tfevents.2000.host')
    assert read_run(tmp_path).series['x'].values.tolist() == [1.0, 3.0, 4.0]


def test_the_history_counts_and_events_add_what_it_lacks(tmp_path: Path) -> None:
    write_events(tmp_path, {'a': {0: 1.0}, 'collect/return_task0': {7: 0.5}})
    file = HistoryFile(tmp_path / 'history.arrows')
    file.begin(RunDescription({0: 'Pong'}))
    file.publish(Record(0, {'a': 2.0}))
    file.close()
    run = read_run(tmp_path)
    assert run.series['a'].values.tolist() == [2.0]
    assert run.series['collect/return_task0'].values.tolist() == [0.5]
    assert run.tasks == {0: 'Pong'}


def test_a_truncated_event_file_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    write_events(tmp_path, {'a': {step: float(step) for step in range(50)}})
    file = next(tmp_path.iterdir())
    file.write_bytes(file.read_bytes()[:-13])
    assert 40 <= len(read_run(tmp_path).series['a'].values) < 50


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('notes.txt', b'hello', 'no history file'),
        ('history.arrows', b'', 'holds no points'),
        ('history.arrows', b'\xff\xff\xff\xffnonsense and more of it', 'holds no points'),
        ('events.out.tfevents.1.host', b'garbage that is no record', 'holds no points'),
        ('export.csv', b'a,b\n1,2\n', 'no export of a run'),
        ('export.json', b'[1, 2]', 'no export of a run'),
    ],
)
def test_what_is_no_run_is_said_in_a_sentence(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RunError, match=message):
        read_run(tmp_path / name)


def test_an_empty_folder_and_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match='it is no run'):
        read_run(tmp_path)
    with pytest.raises(RunError, match='no such file or folder'):
        read_run(tmp_path / 'nowhere')


def test_two_runs_in_one_folder_are_not_mixed(tmp_path: Path) -> None:
    for name in 'ab':
        file = HistoryFile(tmp_path / name / 'history.arrows')
        file.publish(Record(0, {'x': 1.0}))
        file.close()
    with pytest.raises(RunError, match='holds 2 runs'):
        read_run(tmp_path)


@pytest.mark.parametrize('form', ['csv', 'parquet', 'json'])
def test_an_export_reads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    file = HistoryFile(tmp_path / 'run' / 'history.arrows')
    file.begin(RunDescription({0: 'Pong, "the" game'}))
    matrix = Matrix(np.eye(2), (0, 1), (0, 1))
    file.publish(Record(0, {'a, "b"\n': 0.1, 'c': math.nan}, {'m': matrix}))
    file.publish(Record(5, {'c': -math.inf}))
    file.close()
    output = tmp_path / f'out.{form}'
    monkeypatch.setattr(
        sys, 'argv', ['normmon', 'export', str(tmp_path / 'run'), '--to', form, '--output', str(output)]
    )
    with pytest.raises(SystemExit) as left:
        command_line.main()
    assert not left.value.code
    run = read_run(output)
    np.testing.assert_array_equal(run.series['a, "b"\n'].values, [0.1])
    np.testing.assert_array_equal(run.series['c'].values, [math.nan, -math.inf])
    assert run.series['c'].iterations.tolist() == [0, 5]
    if form == 'json':
        np.testing.assert_array_equal(run.matrices['m'].values, [np.eye(2)])
    if form != 'csv':
        assert run.tasks == {0: 'Pong, "the" game'}


@pytest.mark.parametrize('name', ['broken.parquet', 'broken.arrows', 'broken.csv', 'broken.json'])
def test_what_cannot_be_read_is_said_in_one_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b'PAR1 and then nothing of the kind \xff\xfe')
    with pytest.raises(RunError, match=name):
        read_run(path)


def test_a_folder_where_a_file_should_be(tmp_path: Path) -> None:
    (tmp_path / 'history.arrows').mkdir()
    with pytest.raises(RunError):
        read_run(tmp_path)
    from ding_normmon.cli.diagnose import command

    result = CliRunner().invoke(command, [str(tmp_path)])
    assert result.exit_code == 3
    assert 'Traceback' not in result.output
