"""Runs that had bad luck or bad company: every part of a file hit, many writers, things put in the history's place."""

from __future__ import annotations

import math
import multiprocessing
import os
import socket
import threading
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from ding_normmon.core.destination import RunDescription
from ding_normmon.core.record import Matrix, Record
from ding_normmon.destinations.tensorboard.frames import checksum
from ding_normmon.runs import read_run
from ding_normmon.runs.chunks import Chunk, scan
from ding_normmon.runs.exports import WRITERS
from ding_normmon.runs.format import Encoder
from ding_normmon.runs.header import Header
from ding_normmon.runs.history_file import FILE_NAME, HistoryFile
from ding_normmon.runs.report.page import render_page
from tests.runs.histories import assert_repaired, points, sample, write, write_starts
from tests.sampling import sampled

pytestmark = pytest.mark.slow

FIGURES = {'grad/model/_total_norm': 1.0, 'monitor/cost/ms': 1.0}


def assert_commands_end_in_order(path: Path, folder: Path) -> None:
    """Run every command that reads a run; each ends with a code of ours and no mistake of ours."""
    options = {
        'diagnose': ['--format', 'json'],
        'report': ['--output', str(folder / 'report.html')],
        'export': ['--to', 'json', '--output', str(folder / 'out.json')],
        'compare': [str(path), '--output', str(folder / 'compare.html'), '--fail-if', 'grad/* > 2x'],
        'watch': ['--once'],
        'check': [],
    }
    for name, given in options.items():
        # What numpy says of sums at the ends of the range is an error in tests alone.
        with np.errstate(all='ignore'):
            result = CliRunner().invoke(import_module(f'ding_normmon.cli.{name}').command, [str(path), *given])
        assert result.exception is None or isinstance(result.exception, SystemExit), (name, result.exception)
        assert 'mistake of normmon' not in result.output, (name, result.output)
        assert result.exit_code in (0, 1, 2) or name == 'check', (name, result.output)


@pytest.mark.parametrize('offset', sampled(range(27), every=27))
def test_a_flip_in_any_part_of_header_tombstone_and_end(tmp_path: Path, offset: int) -> None:
    path = tmp_path / FILE_NAME
    write(path, [sample(number) for number in range(8)])
    write(path, [Record(number, {'a': 0.5}) for number in (4, 6, 9)], begins_at=4)
    whole = path.read_bytes()
    chunks = [part for part in scan(whole) if isinstance(part, Chunk)]
    first, tombstone = chunks[0], chunks[9]
    assert tombstone.number == 0
    expected = points(read_run(path))
    assert expected == {0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0, 4: 0.5, 6: 0.5, 9: 0.5}
    for part, stop in ((first, first.stop), (tombstone, tombstone.stop), (chunks[-1], len(whole))):
        for position in range(part.start + offset, stop, 27):
            damaged = bytearray(whole)
            damaged[position] ^= 0x10
            path.write_bytes(damaged)
            lost = [0] if part is first else []
            assert points(read_run(path)) == {at: value for at, value in expected.items() if at not in lost}, position


def test_a_tombstone_that_is_cut_off_anywhere_has_replaced_nothing(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    write(path, [sample(number) for number in range(8)])
    size = path.stat().st_size
    file = HistoryFile(path)
    file.begin(RunDescription(begins_at=4))
    whole = path.read_bytes()
    file._release()  # as a kill does
    assert list(points(read_run(path))) == [0, 1, 2, 3]
    for cut in range(size, len(whole), 61):
        path.write_bytes(whole[:cut])
        assert list(points(read_run(path))) == list(range(8))
        write(path, [Record(5, {'a': 7.0})], begins_at=5)
        run = read_run(path)
        assert (points(run), run.warnings) == ({0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0, 5: 7.0}, []), cut


def test_six_writers_that_start_at_the_same_moment(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    fork = multiprocessing.get_context('fork')
    barrier = fork.Barrier(6)

    def train(number: int) -> None:
        file = HistoryFile(path)
        barrier.wait()
        file.begin(RunDescription(begins_at=0))
        for iteration in range(40):
            file.publish(Record(iteration, {'a': float(1000 * number + iteration)}))
        barrier.wait()
        file.close()

    children = [fork.Process(target=train, args=(number,)) for number in range(6)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == [f'history-{number}.arrows' for number in range(2, 7)] + [FILE_NAME]
    runs = [points(read_run(file)) for file in files]
    assert all(list(run) == list(range(40)) for run in runs)
    assert {frozenset(value // 1000 for value in run.values()) for run in runs} == {frozenset([k]) for k in range(6)}


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)


@pytest.mark.parametrize('make', [os.mkfifo, Path.mkdir, make_socket, lambda path: path.symlink_to('/dev/zero')])
def test_what_takes_the_historys_place_while_it_is_written_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: object
) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    path = tmp_path / FILE_NAME
    file = HistoryFile(path)
    file.publish(Record(0, {'a': 0.0}))
    path.rename(tmp_path / 'moved.arrows')
    make(path)  # type: ignore[operator]
    mode = path.lstat().st_mode
    with pytest.raises(FileNotFoundError):
        file.publish(Record(1, {'a': 1.0}))
    done = threading.Thread(target=lambda: (file.publish(Record(2, {'a': 2.0})), file.close()), daemon=True)
    done.start()
    done.join(20)
    assert not done.is_alive()
    assert path.lstat().st_mode == mode
    assert points(read_run(tmp_path)) == {1: 1.0, 2: 2.0}
    assert points(read_run(tmp_path / 'moved.arrows')) == {0: 0.0}


NAMES = ['a\0b', 'a\nb', '', '\ud800', ' ', 'x' * 100_000, '\r\n', '"', '../../etc', '=1+1', '\u202e', 'nan']


@pytest.mark.parametrize('form', WRITERS)
def test_names_of_anything_come_back_from_every_kind_of_file(tmp_path: Path, form: str) -> None:
    path, output = tmp_path / FILE_NAME, tmp_path / f'out.{form}'
    write(path, [Record(at, dict.fromkeys(NAMES, float(at)), notes={name: name for name in NAMES}) for at in range(3)])
    run = read_run(path)
    assert len(run.series) == len(NAMES)
    assert_repaired(path)
    WRITERS[form](run, output)
    again = read_run(output)
    assert set(again.series) == set(run.series)
    assert all(points(again, name) == {0: 0.0, 1: 1.0, 2: 2.0} for name in again.series)


ABOUT = {'ranks': 10**400, 'versions': 3}
HUGE = [10**400, -(10**400), '9' * 400, [10**400], {'9' * 400: 10**400}, {'0': 10**400}, ABOUT]
FIELDS = ['tasks', 'configuration', 'replaces_from', 'rules', 'version', 'figures', 'about']


@pytest.mark.parametrize('key', sampled(FIELDS))
def test_counts_of_400_digits_in_any_field_of_the_header(tmp_path: Path, key: str) -> None:
    path = tmp_path / FILE_NAME
    for value in HUGE:
        encoder = Encoder({'tasks': {'0': 'Pong'}, key: value})
        path.write_bytes(b''.join(encoder.encode(Record(at, {'a': 1.0, **FIGURES})) for at in range(3)) + encoder.end())
        run = read_run(path)
        assert points(run) == dict.fromkeys(range(3), 1.0)
        assert render_page([run])
        assert_repaired(path)


def test_numbers_and_times_at_the_ends_of_their_range(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    encoder = Encoder(Header({0: 'Pong'}).plain())
    ends = [1e308, -1e308, 5e-324, 0.0, -0.0, math.nan, math.inf, -math.inf]
    data = b''
    for iteration, value in enumerate(ends * 3):
        matrix = Matrix(np.array([[value]]), (0,), (0,))
        names = ('a', 'noreduce_value_loss_task0', 'grad/head_value_task0/_total_norm')
        record = Record(iteration, {**FIGURES, **dict.fromkeys(names, value)}, {'conflict/encoder/cosine': matrix})
        data += encoder.encode(record, value)
    for whole in (data, data + encoder.end()):
        path.write_bytes(whole)
        np.testing.assert_array_equal(read_run(path).series['a'].values, ends * 3)
        assert_repaired(path)
        assert_commands_end_in_order(path, tmp_path)


def test_iterations_at_the_ends_of_their_range(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    iterations = [-(2**63), -5, 0, 2**62, 2**63 - 1]
    write(path, [Record(at, {'a': 1.0, **FIGURES}) for at in iterations])
    assert list(points(read_run(path))) == iterations
    assert_repaired(path)
    assert_commands_end_in_order(path, tmp_path)


def test_events_of_any_step_time_and_tag(tmp_path: Path) -> None:
    def frame(event: Event) -> bytes:
        body = event.SerializeToString()
        head = len(body).to_bytes(8, 'little')
        return head + checksum(head) + body + checksum(body)

    tags = ['a\0b', 'a\nb', 'x' * 100_000, 'grad/model/_total_norm', 'grad/head_value_task99999999999/_total_norm']
    data = b''
    for step, when in ((0, 0.0), (2**63 - 1, math.nan), (-(2**63), math.inf), (6, 1e300), (7, -1e300)):
        values = [Summary.Value(tag=tag, simple_value=value) for tag in tags for value in (math.nan, 1e38, math.inf)]
        data += frame(Event(step=step, wall_time=when, summary=Summary(value=values)))
    (tmp_path / 'events.out.tfevents.99999999999999999999999.host').write_bytes(data)
    run = read_run(tmp_path)
    assert len(run.series) == len(tags)
    assert list(points(run, 'a\nb')) == [-(2**63), 0, 6, 7, 2**63 - 1]
    assert_commands_end_in_order(tmp_path, tmp_path)


def test_what_other_programs_left_beside_a_run_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / 'run'
    write_starts(folder, starts=1, records=30)
    expected = points(read_run(folder))
    (folder / 'events.out.tfevents.1.profile-empty').touch()
    (folder / 'events.out.tfevents.1.gz').write_bytes(b'\x1f\x8b' + bytes(range(256)) * 20)
    (folder / 'tfevents').mkdir()
    (folder / 'history-3.arrows').symlink_to('/nowhere')
    os.mkfifo(folder / 'history-4.arrows')
    histories = ('history-0.arrows', 'history-²2.arrows', f'history-{"9" * 30}.arrows')
    for name in (*histories, 'history.json', 'black_box-rank0.ring'):
        (folder / name).write_text('?' * 1000)
    run = read_run(folder)
    assert points(run) == expected
    assert any('history-0.arrows' in warning for warning in run.warnings)
    write(folder / FILE_NAME, [Record(30, {'a': 30.0})])
    assert points(read_run(folder)) == {**expected, 30: 30.0}
