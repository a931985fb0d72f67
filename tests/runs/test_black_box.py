"""The black box: what survives a kill, what is torn, of another version or size, and what cannot be allocated."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ding_normmon import Monitor, Record
from ding_normmon.cli.blackbox import command
from ding_normmon.cli.diagnose import command as diagnose
from ding_normmon.runs import read_run
from ding_normmon.runs.black_box import BlackBoxFile, box_name, previous_name
from ding_normmon.runs.history_file import FILE_NAME, HistoryFile
from ding_normmon.runs.read_black_box import boxes_of, incident_of_death, read_box
from ding_normmon.runs.run import RunError
from ding_normmon.runs.slots import HEADER_BYTES, VERSION, encode_slot, slots_of

SIZE = 1 << 20


def train(folder: Path, steps: int, after_step: Callable[[int], None] = lambda _: None, **settings: object) -> Monitor:
    """A loop that publishes every 1,000 steps and watches every second one."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    config = {'monitor_norm_freq': 1000, 'watch': 2, 'black_box': '1MB', **settings}
    monitor = Monitor(model, config, optimizer=optimizer, destinations=[HistoryFile(folder / FILE_NAME)])
    with monitor:
        for iteration in range(steps):
            optimizer.zero_grad()
            loss = model(torch.randn(16, 6)).square().mean()
            monitor.learner_step.publish_loss('loss', loss)
            loss.backward()
            optimizer.step()
            after_step(iteration)
    return monitor


def killed_while_training(folder: Path, seconds: float) -> int:
    """Train in a process of its own, kill it, and return the last step that it had ended."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(told)

            def after_step(iteration: int) -> None:
                os.write(tell, iteration.to_bytes(4, 'little'))
                time.sleep(0.004)

            train(folder, 1 << 20, after_step)
        finally:
            os._exit(1)
    os.close(tell)
    first = os.read(told, 4)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(told, 'rb') as pipe:
        steps = np.frombuffer(first + pipe.read(), '<i4')
    return int(steps[-1])


def check_kill(folder: Path, seconds: float) -> None:
    """The rank's own file lacks at most one watched step; the merged figures at most what a second brings."""
    ended = killed_while_training(folder, seconds)
    box = read_box(folder / box_name(0))
    assert box.ending == 'died'
    assert box.torn <= 1
    # Every second step is watched; the last that had ended for certain is kept, or the one before it.
    assert box.own[-1] >= ended - ended % 2 - 2
    assert box.own == tuple(range(box.own[0], box.own[-1] + 1, 2))
    assert box.window.iterations[-1] >= ended - 1.0 / 0.004


@pytest.mark.parametrize('seconds', [0.35, 0.6, 0.83])
def test_what_was_measured_last_survives_a_kill(tmp_path: Path, seconds: float) -> None:
    check_kill(tmp_path, seconds)


@pytest.mark.full
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_fifty_kills_at_random_moments(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number in range(50):
        check_kill(tmp_path / str(number), float(random.uniform(0.05, 1.5)))


def test_a_dead_run_has_an_incident_and_says_so(tmp_path: Path) -> None:
    killed_while_training(tmp_path, 0.7)
    run = read_run(tmp_path)
    assert [incident.kind for incident in run.incidents] == ['death']
    assert 'killed' in run.incidents[0].reason
    assert all(series.iterations.tolist() == [0] for series in run.series.values())
    result = CliRunner().invoke(command, [str(tmp_path), '--last', '3'])
    assert result.exit_code == 2
    assert 'it ended without closing' in result.output
    newest = read_box(tmp_path / box_name(0)).window.iterations[-3:].tolist()
    assert all(str(iteration) in result.output for iteration in newest)
    told = CliRunner().invoke(diagnose, [str(tmp_path)])
    assert told.exit_code == 2
    assert 'The run ended without closing' in told.output


def test_a_run_that_ends_leaves_a_small_file_and_no_incident(tmp_path: Path) -> None:
    train(tmp_path, 20)
    box = read_box(tmp_path / box_name(0))
    assert (box.ending, box.own, box.warnings) == ('closed', tuple(range(0, 20, 2)), ())
    assert (tmp_path / box_name(0)).stat().st_size < SIZE
    assert incident_of_death([box]) is None
    run = read_run(tmp_path)
    assert run.incidents == []
    assert run.series['grad/model/_total_norm'].iterations.tolist() == [0]
    assert CliRunner().invoke(command, [str(tmp_path)]).exit_code == 0


def test_an_exception_is_told_with_its_steps(tmp_path: Path) -> None:
    def after_step(iteration: int) -> None:
        if iteration == 41:
            raise ArithmeticError('no such number\n' + 1000 * 'and another line\n')

    with pytest.raises(ArithmeticError):
        train(tmp_path, 100, after_step)
    [incident] = read_run(tmp_path).incidents
    assert incident.kind == 'exception'
    # The optimizer had stepped, so that the next learner step had begun.
    assert incident.reason == 'ArithmeticError: no such number..., in the learner step of iteration 42.'
    assert (incident.task, incident.first) == (None, ())
    assert incident.window.iterations.tolist() == list(range(0, 41, 2))
    assert 'ArithmeticError' in CliRunner().invoke(command, [str(tmp_path)]).output


def test_figures_of_the_box_are_those_that_were_measured(tmp_path: Path) -> None:
    weights: list[float] = []
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {'monitor_norm_freq': 100, 'watch': 4, 'black_box': '1MB'}
    with Monitor(model, settings, optimizer=optimizer, destinations=[HistoryFile(tmp_path / FILE_NAME)]):
        for _ in range(10):
            weights.append(float(torch.cat([p.detach().double().ravel() for p in model.parameters()]).norm()))
            optimizer.zero_grad()
            model(torch.randn(7, 5)).square().sum().backward()
            optimizer.step()
    window = read_box(tmp_path / box_name(0)).window
    found = window.values[:, window.names.index('norm/model/_total_norm')]
    assert window.iterations.tolist() == [0, 4, 8]
    np.testing.assert_allclose(found, [weights[0], weights[4], weights[8]], rtol=1e-6)
    single = [place for place, name in enumerate(window.names) if name.startswith('parameter/norm/')]
    np.testing.assert_allclose(np.hypot(*window.values[:, single].T), found, rtol=1e-6)


def test_the_oldest_steps_are_overwritten(tmp_path: Path) -> None:
    box = BlackBoxFile(tmp_path, SIZE)
    box.begin({'rank': 0}, print)
    for iteration in range(300):
        box.keep_record(Record(iteration, {f'figure/{name}': float(iteration) for name in range(1000)}), {})
        time.sleep(0.001)
    box.close(10.0)
    found = read_box(tmp_path / box_name(0))
    iterations = found.window.iterations
    assert found.torn == 0
    assert found.ending == 'closed'
    assert iterations[-1] == 299
    assert 50 < len(iterations) < 200
    assert np.diff(iterations).tolist() == [1] * (len(iterations) - 1)
    assert (found.window.values == iterations[:, None]).all()
    assert (tmp_path / box_name(0)).stat().st_size == SIZE


def test_a_torn_slot_costs_itself(tmp_path: Path) -> None:
    train(tmp_path, 20)
    path = tmp_path / box_name(0)
    data = bytearray(path.read_bytes())
    slots, _ = slots_of(bytes(data), HEADER_BYTES)
    at = data.index(encode_slot(slots[6].sequence, 0, 0.0, 1)[:8], HEADER_BYTES + 512 * 3)
    data[at + 70] ^= 0xFF
    path.write_bytes(data)
    box = read_box(path)
    assert box.torn == 1
    assert '1 torn or damaged' in box.warnings[0]
    assert len(slots) - 1 == len(slots_of(bytes(data), HEADER_BYTES)[0])


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        (lambda data: data[:18] + bytes([VERSION + 1]) + data[19:], 'was written by version 2'),
        (lambda data: b'something else' + data, 'is no black box'),
        (lambda data: b'', 'is no black box'),
    ],
)
def test_another_version_or_no_box_is_a_sentence(
    tmp_path: Path, change: Callable[[bytes], bytes], sentence: str
) -> None:
    train(tmp_path, 4)
    path = tmp_path / box_name(0)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(RunError, match=sentence):
        read_box(path)
    result = CliRunner().invoke(command, [str(tmp_path)])
    assert result.exit_code == 3
    assert sentence in result.output
    # The run itself is read all the same.
    assert any(sentence in warning for warning in read_run(tmp_path).warnings)


def test_a_damaged_header_costs_the_names_of_the_tasks(tmp_path: Path) -> None:
    train(tmp_path, 8)
    path = tmp_path / box_name(0)
    whole, data = read_box(path), path.read_bytes()
    path = path.replace(tmp_path / box_name(3))
    path.write_bytes(data[:50] + b'?' + data[51:])
    box = read_box(path)
    assert (box.rank, box.own, box.ending) == (3, whole.own, whole.ending)
    assert 'damaged header' in box.warnings[0]


def test_another_size_is_a_sentence_and_what_is_whole_is_read(tmp_path: Path) -> None:
    train(tmp_path, 40)
    path = tmp_path / box_name(0)
    whole = read_box(path)
    path.write_bytes(path.read_bytes()[:-30_000])
    box = read_box(path)
    assert 'should have' in box.warnings[0]
    assert 0 < len(box.own) < len(whole.own)


def test_what_cannot_be_allocated_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / box_name(0)).mkdir()
    for number in range(2, 101):
        (tmp_path / f'{Path(box_name(0)).stem}-{number}.ring').mkdir()
    monitor = train(tmp_path, 10)
    told = [record.message for record in caplog.records if 'could be allocated' in record.message]
    assert len(told) == 1
    assert 'black box' in told[0]
    assert monitor.lost_data.total['black_box'] == 1
    assert read_run(tmp_path).series['loss'].values.size == 1


def test_a_full_disk_costs_the_black_box_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'posix_fallocate', full)
    monitor = train(tmp_path, 10)
    assert monitor.lost_data.total['black_box'] == 1
    assert not list(tmp_path.glob('*.ring'))


def test_a_new_start_keeps_what_the_dead_one_left(tmp_path: Path) -> None:
    killed_while_training(tmp_path, 0.3)
    train(tmp_path, 6)
    assert read_box(tmp_path / box_name(0)).ending == 'closed'
    assert read_box(previous_name(tmp_path / box_name(0))).ending == 'died'
    assert [box.own for box in boxes_of(tmp_path)] == [(0, 2, 4)]


def test_two_runs_in_one_folder_do_not_share_a_file(tmp_path: Path) -> None:
    boxes = [BlackBoxFile(tmp_path, SIZE) for _ in range(2)]
    for number, box in enumerate(boxes):
        box.begin({'rank': 0}, print)
        box.keep_record(Record(number, {'figure': 1.0}), {})
        while box.path is None:
            time.sleep(0.01)
    for box in boxes:
        box.close(5.0)
    assert [read_box(box.path or '').window.iterations.tolist() for box in boxes] == [[0], [1]]


@pytest.mark.parametrize('settings', [{'black_box': None}, {'monitor_norm_freq': 0}])
def test_none_is_made_where_none_is_wanted(tmp_path: Path, settings: dict[str, object]) -> None:
    train(tmp_path, 6, **settings)
    assert not list(tmp_path.glob('*.ring'))


def kept_by(folder: Path, rank: int, session: str, is_closed: bool) -> None:
    box = BlackBoxFile(folder, SIZE)
    box.begin({'rank': rank, 'session': session}, print)
    box.keep_record(Record(8, {'grad/model/_total_norm': 2.5}), {})
    if is_closed:
        box.close(10.0)
        return
    until = time.monotonic() + 10
    while box._sequence == 0 and time.monotonic() < until:
        time.sleep(0.01)
    # As the end of a process does.
    os.close(box._file)
    box._file, box._is_off = -1, True


def test_a_rank_that_the_run_no_longer_has_did_not_die_in_its_last_start(tmp_path: Path) -> None:
    """Two ranks were killed; the run went on with one, and ended in order."""
    for rank in (0, 1):
        kept_by(tmp_path, rank, 'first', is_closed=False)
    assert [box.ending for box in boxes_of(tmp_path)] == ['died', 'died']
    assert incident_of_death(boxes_of(tmp_path)) is not None
    kept_by(tmp_path, 0, 'second', is_closed=True)
    [box] = boxes_of(tmp_path)
    assert (box.rank, box.ending) == (0, 'closed')
    assert 'black_box-rank1.ring is of another start' in box.warnings[0]
    assert incident_of_death([box]) is None
    assert CliRunner().invoke(command, [str(tmp_path)]).exit_code == 0
    assert read_box(tmp_path / box_name(1)).ending == 'died'
