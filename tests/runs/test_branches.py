"""A resumed run shows one branch: what it measures again is in nobody's sight."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX import SummaryWriter
from torch import nn

from ding_normmon import Monitor, Record
from ding_normmon.destinations import TensorBoard
from ding_normmon.runs import read_run
from ding_normmon.runs.check import check_run
from ding_normmon.runs.chunks import Chunk, scan
from ding_normmon.runs.history_file import FILE_NAME, HistoryFile
from ding_normmon.runs.read_events import event_files, read_events
from tests.runs.histories import points, sample, write

pytestmark = pytest.mark.slow

NAME = 'grad/model/_total_norm'
RETURN = 'basic/eval_episode_return_mean-env_step'


def train(
    folder: Path, iterations: range, frequency: int, state: dict[str, int] | None = None, saved_at: int | None = None
) -> dict[str, int]:
    """Train from the first iteration to the last; return the monitor's state as a checkpoint has it."""
    model = nn.Linear(2, 1)
    # Files are named after the second in which they were begun.
    writer = SummaryWriter(str(folder), filename_suffix=f'.{len(list(folder.iterdir()))}')
    destinations = [HistoryFile(folder / FILE_NAME), TensorBoard(writer)]
    monitor = Monitor(model, {'monitor_norm_freq': frequency}, destinations=destinations)
    if state is not None:
        monitor.load_state_dict(state)
    saved = monitor.state_dict()
    for iteration in iterations:
        if iteration == saved_at:
            saved = monitor.state_dict()
        # As DI-engine's loggers and the evaluator do: over environment steps.
        writer.add_scalar(RETURN, float(frequency), 7 * iteration)
        with monitor.step(iteration) as step:
            loss = model(torch.ones(1, 2)).sum()
            step.forward_end()
            loss.backward()
            step.backward_end()
    monitor.close()
    writer.close()
    return saved


def train_and_die(folder: Path, iterations: range, state: dict[str, int] | None) -> None:
    """Go on at iterations none of which is measured, and be killed."""

    def go_on() -> None:
        size = (folder / FILE_NAME).stat().st_size
        model = nn.Linear(2, 1)
        writer = SummaryWriter(str(folder), filename_suffix='.killed')
        destinations = [HistoryFile(folder / FILE_NAME), TensorBoard(writer)]
        monitor = Monitor(model, {'monitor_norm_freq': 1000, 'watch': 'off'}, destinations=destinations)
        if state is not None:
            monitor.load_state_dict(state)
        for iteration in iterations:
            with monitor.step(iteration):
                model(torch.ones(1, 2)).sum().backward()
        until = time.monotonic() + (20 if iterations else 0)
        while (folder / FILE_NAME).stat().st_size == size and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

    child = multiprocessing.get_context('fork').Process(target=go_on)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL


def in_history(folder: Path) -> list[int]:
    return list(points(read_run(folder / FILE_NAME), NAME))


def in_events(folder: Path) -> list[int]:
    found = read_events(folder, event_files(folder)).series[NAME].iterations.tolist()
    accumulator = EventAccumulator(str(folder), size_guidance={'scalars': 0})
    accumulator.Reload()
    # TensorBoard reads files by the time in their names, which a clock that was set turns round.
    assert sorted(point.step for point in accumulator.Scalars(NAME)) == found
    return found


@pytest.mark.parametrize(('before', 'after'), [(1, 1), (1, 7), (5, 3), (3, 10)])
def test_another_frequency_after_the_resumption(tmp_path: Path, before: int, after: int) -> None:
    state = train(tmp_path, range(24), before, saved_at=14)
    train(tmp_path, range(14, 40), after, state)
    expected = [i for i in range(14) if i % before == 0] + [i for i in range(14, 40) if i % after == 0]
    assert in_history(tmp_path) == expected
    assert in_events(tmp_path) == expected


def test_a_second_resumption_and_one_from_an_older_checkpoint(tmp_path: Path) -> None:
    older = train(tmp_path, range(20), 1, saved_at=5)
    newer = train(tmp_path, range(5, 30), 2, older, saved_at=12)
    train(tmp_path, range(12, 20), 3, newer)
    assert in_history(tmp_path) == [*range(5), 6, 8, 10, 12, 15, 18]
    assert in_events(tmp_path) == in_history(tmp_path)
    train(tmp_path, range(5, 9), 4, older)
    assert in_history(tmp_path) == [*range(5), 8]
    assert in_events(tmp_path) == [*range(5), 8]


@pytest.mark.parametrize('iterations', [range(0), range(14, 20)])
def test_a_resumed_run_that_dies_before_its_first_record_has_abandoned_what_it_replaces(
    tmp_path: Path, iterations: range
) -> None:
    state = train(tmp_path, range(24), 1, saved_at=14)
    for _ in range(2):
        train_and_die(tmp_path, iterations, state)
        assert in_history(tmp_path) == in_events(tmp_path) == list(range(14))
        assert set(returns(tmp_path)) == set(range(14))
    [checked] = check_run(tmp_path / FILE_NAME)
    assert (checked.errors, checked.warnings) == ([], [])
    assert 'start 3: no records; what is from 14 on is replaced' in checked.facts
    train(tmp_path, range(14, 20), 2, state)
    assert in_history(tmp_path) == in_events(tmp_path) == [*range(14), 14, 16, 18]


def test_without_the_monitors_state_the_first_learner_step_tells_what_is_abandoned(tmp_path: Path) -> None:
    train(tmp_path, range(24), 1)
    train_and_die(tmp_path, range(14, 20), None)
    assert in_history(tmp_path) == list(range(14))


def returns(folder: Path) -> dict[int, float]:
    """Return the returns in the event files by iteration, as read here and by TensorBoard."""
    accumulator = EventAccumulator(str(folder), size_guidance={'scalars': 0})
    accumulator.Reload()
    found = {point.step // 7: point.value for point in accumulator.Scalars(RETURN)}
    assert found == {step // 7: value for step, value in points(read_run(folder), RETURN).items()}
    return found


def test_returns_of_an_abandoned_branch_are_not_shown(tmp_path: Path) -> None:
    """The resumed run explores, and evaluates, elsewhere: its returns stand at other environment steps."""
    older = train(tmp_path, range(20), 1, saved_at=5)
    newer = train(tmp_path, range(5, 30), 2, older, saved_at=12)
    assert returns(tmp_path) == {**dict.fromkeys(range(5), 1.0), **dict.fromkeys(range(5, 30), 2.0)}
    train(tmp_path, range(12, 16), 3, newer)
    first = {**dict.fromkeys(range(5), 1.0), **dict.fromkeys(range(5, 12), 2.0)}
    assert returns(tmp_path) == {**first, **dict.fromkeys(range(12, 16), 3.0)}
    train(tmp_path, range(5, 9), 4, older)
    assert returns(tmp_path) == {**dict.fromkeys(range(5), 1.0), **dict.fromkeys(range(5, 9), 4.0)}


def test_files_of_other_programs_keep_their_points(tmp_path: Path) -> None:
    state = train(tmp_path, range(20), 1, saved_at=10)
    writer = SummaryWriter(str(tmp_path), filename_suffix='.evaluator')
    for step in range(20):
        writer.add_scalar('evaluated', 1.0, step)
    writer.close()
    train(tmp_path, range(10, 15), 1, state)
    assert len(points(read_run(tmp_path), 'evaluated')) == 20


@pytest.mark.parametrize('hours', [-1, 1])
def test_a_clock_that_was_set_hides_no_point_from_before_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """Records of the monitor are told by their iterations whatever the clock says."""
    now = time.time
    state = train(tmp_path, range(20), 1, saved_at=10)
    monkeypatch.setattr(time, 'time', lambda: now() + 3600 * hours)
    train(tmp_path, range(10, 15), 1, state)
    assert in_history(tmp_path) == in_events(tmp_path) == list(range(15))
    assert set(range(10)) <= set(returns(tmp_path))


def test_a_run_that_goes_on_without_the_monitors_state_begins_where_its_first_step_is(tmp_path: Path) -> None:
    train(tmp_path, range(24), 1)
    train(tmp_path, range(14, 30), 10)
    assert in_history(tmp_path) == [*range(14), 20]


def test_matrices_notes_and_findings_of_an_abandoned_branch_are_not_shown(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    write(path, [sample(number) for number in range(30)])
    write(path, [Record(12, {'a': 0.5})], begins_at=10)
    run = read_run(path)
    assert points(run) == {**{number: float(number) for number in range(10)}, 12: 0.5}
    assert run.matrices['conflict/encoder/cosine'].iterations.tolist() == [0, 3, 6, 9]
    assert [note.iteration for note in run.notes] == [0, 5]
    assert [finding.found for finding in run.findings] == [0, 7]


def test_nothing_of_an_abandoned_branch_is_taken_out_of_the_files(tmp_path: Path) -> None:
    state = train(tmp_path, range(20), 1, saved_at=10)
    # A black box is a ring: it forgets.
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.suffix != '.ring'}
    train(tmp_path, range(10, 15), 1, state)
    for path, data in before.items():
        after = path.read_bytes()
        if path.name == FILE_NAME:
            assert after.startswith(data)
        else:
            changed = np.flatnonzero(np.frombuffer(after, np.uint8) != np.frombuffer(data, np.uint8))
            assert len(after) == len(data)
            assert 20 <= len(changed) <= 20 * 5  # one byte and a checksum each, of records and of returns


def test_the_beginning_of_a_branch_survives_damage(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    write(path, [Record(number, {'a': float(number)}) for number in range(30)])
    at = path.stat().st_size
    write(path, [Record(number, {'a': 0.5}) for number in (21, 28, 35)], begins_at=15)
    whole = path.read_bytes()
    first, second = [part for part in scan(whole) if isinstance(part, Chunk) and part.start >= at][:2]
    expected = {**{number: float(number) for number in range(15)}, 21: 0.5, 28: 0.5, 35: 0.5}
    for hit, lost in (([first], []), ([second], [21]), ([first, second], [21])):
        data = bytearray(whole)
        for chunk in hit:
            data[chunk.start + 100] ^= 1
        path.write_bytes(data)
        assert points(read_run(path)) == {at: value for at, value in expected.items() if at not in lost}
