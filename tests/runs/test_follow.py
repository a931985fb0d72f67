"""A run that grows is read on from where it was read to, and says the same as one that is read from its beginning."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from ding_normmon.core.destination import RunDescription
from ding_normmon.core.finding import Finding
from ding_normmon.core.incident import DenseWindow, Incident
from ding_normmon.core.record import Matrix, Record
from ding_normmon.runs import Run, RunError, follow, read_run
from ding_normmon.runs.follow import FollowedRun
from ding_normmon.runs.history_file import HistoryFile


def assert_same(run: Run, other: Run) -> None:
    """Compare two runs field by field, numbers to the last bit."""
    for name in ('path', 'tasks', 'configuration', 'notes', 'findings', 'warnings', 'rules', 'is_ended', 'about'):
        assert getattr(run, name) == getattr(other, name), name
    for name in ('series', 'matrices'):
        ours, theirs = getattr(run, name), getattr(other, name)
        assert ours.keys() == theirs.keys()
        for key, curve in theirs.items():
            for field in dataclasses.fields(curve):
                np.testing.assert_array_equal(getattr(ours[key], field.name), getattr(curve, field.name))
    assert [plain(incident) for incident in run.incidents] == [plain(incident) for incident in other.incidents]


def plain(incident: Incident) -> Any:
    window = incident.window
    return dataclasses.replace(incident, window=DenseWindow()), window.names, window.values.tolist()


def record(iteration: int) -> Record:
    """Return a record of everything that one may hold; figures come, go, and are NaN."""
    scalars = {'grad/model/_total_norm': 1.0 + iteration, 'monitor/cost/ms_diagnosis': 0.1}
    if iteration % 3:
        scalars[f'norm/head_value_task{iteration % 5}/_total_norm'] = float('nan') if iteration % 4 == 0 else 2.0
    matrices, notes, findings, incidents = {}, {}, (), ()
    if iteration % 2:
        matrices = {'conflict/encoder/cosine': Matrix(np.eye(2) * iteration, (0, 1), (0, 1), {0: 'Pong', 1: 'Qbert'})}
    if iteration % 4 == 0:
        notes = {'note': f'text {iteration}'}
        cleared = iteration if iteration % 8 == 0 else None
        findings = (Finding('mine', 'warning', 4, 4 + iteration // 8, 'Odd.', 'Wait.', cleared=cleared),)
    if iteration in (6, 9):
        window = DenseWindow(('loss',), np.arange(iteration), np.ones((iteration, 1)))
        incidents = (Incident(1, 6, 6, 'finding', 'Odd.', window=window),)
    return Record(iteration, scalars, matrices, notes, findings=findings, incidents=incidents)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The positions from which on history files are read."""
    found: list[int] = []
    original = follow.read_streams
    monkeypatch.setattr(follow, 'read_streams', lambda path, start=0: found.append(start) or original(path, start))
    return found


def test_a_growing_history_is_read_on(tmp_path: Path, starts: list[int]) -> None:
    file = HistoryFile(tmp_path / 'history.arrows')
    file.begin(RunDescription({0: 'Pong', 1: 'Qbert'}))
    followed = FollowedRun(tmp_path)
    for iteration in range(14):
        file.publish(record(iteration))
        assert_same(followed.read(), read_run(tmp_path))
    file.close()
    for _ in range(2):
        run = followed.read()
        assert run.is_ended
        assert_same(run, read_run(tmp_path))
    assert starts[0] == 0
    assert min(starts[1:]) > 0
    assert starts == sorted(starts)


def test_what_somebody_changes_in_a_run_is_his_own(tmp_path: Path) -> None:
    file = HistoryFile(tmp_path / 'history.arrows')
    file.publish(record(1))
    followed = FollowedRun(tmp_path / 'history.arrows')
    first = followed.read()
    first.series.clear()
    first.notes.clear()
    first.warnings.append('mine')
    file.publish(record(2))
    assert_same(followed.read(), read_run(tmp_path / 'history.arrows'))
    file.close()


def test_a_record_that_is_being_written_is_read_when_it_is_whole(tmp_path: Path, starts: list[int]) -> None:
    path = tmp_path / 'history.arrows'
    file = HistoryFile(path)
    ends = [0]
    for iteration in range(6):
        file.publish(record(iteration))
        ends.append(path.stat().st_size)
    file.close()
    data = path.read_bytes()
    growing = tmp_path / 'growing' / 'history.arrows'
    growing.parent.mkdir()
    growing.write_bytes(data[: ends[2]])
    followed = FollowedRun(growing)
    followed.read()
    for size in (ends[2] + 5, ends[2] + 100, ends[3] - 1, ends[3] + 1, ends[5], len(data) - 3, len(data)):
        with growing.open('ab') as opened:
            opened.write(data[growing.stat().st_size : size])
        assert_same(followed.read(), read_run(growing))
    assert min(starts[1:]) > 0


@pytest.mark.parametrize('how', ['resumed', 'goes back', 'replaced', 'in its place', 'shorter', 'damaged', 'other run'])
def test_what_does_not_simply_follow_is_read_anew(how: str, tmp_path: Path) -> None:
    path = tmp_path / 'history.arrows'
    file = HistoryFile(path)
    for iteration in range(8):
        file.publish(record(iteration))
    followed = FollowedRun(path)
    followed.read()
    if how == 'goes back':
        file.publish(record(3))
    file.close()
    data = path.read_bytes()
    if how in ('resumed', 'other run'):
        again = HistoryFile(path)
        again.begin(RunDescription({0: 'Breakout'}, begins_at=5 if how == 'resumed' else None))
        again.publish(record(5))
        again.close()
    elif how in ('replaced', 'in its place'):
        other = HistoryFile(tmp_path / 'other.arrows')
        for iteration in range(20):
            other.publish(record(iteration + 100))
        other.close()
        if how == 'replaced':
            os.replace(tmp_path / 'other.arrows', path)
        else:
            path.write_bytes((tmp_path / 'other.arrows').read_bytes())
    elif how == 'shorter':
        os.truncate(path, len(data) // 2)
    elif how == 'damaged':
        path.write_bytes(data + b'nonsense' * 40)
    for _ in range(2):
        assert_same(followed.read(), read_run(path))
    path.unlink()
    with pytest.raises(RunError):
        followed.read()


def test_event_files_are_read_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    followed = FollowedRun(tmp_path)
    writers = {folder: SummaryWriter(str(tmp_path / folder)) for folder in ('', 'loss_task0')}
    for step in range(6):
        for writer in writers.values():
            writer.add_scalar('loss', step, step)
            writer.flush()
        assert_same(followed.read(), read_run(tmp_path))
    # Nothing is read twice: what was added once is there once, and files of a new start come on top.
    [folder, *_] = followed._events._folders.values()
    assert len(folder.steps) == 6
    monkeypatch.setattr('time.time', lambda: 4e9)
    with SummaryWriter(str(tmp_path), purge_step=3) as writer:
        writer.add_scalar('loss', 30, 3)
    assert_same(followed.read(), read_run(tmp_path))
    assert followed.read().series['loss'].values.tolist() == [0, 1, 2, 30]
    # An older file that grows, one that is replaced, and one that shrinks are read from their beginnings.
    writers[''].add_scalar('loss', 9, 9)
    writers[''].close()
    assert_same(followed.read(), read_run(tmp_path))
    [file, *_] = sorted(tmp_path.glob('events*'))
    for content in (file.read_bytes()[:-20], file.read_bytes()[:200] + b'?' * 9 + file.read_bytes()[200:]):
        file.write_bytes(content)
        for _ in range(2):
            assert_same(followed.read(), read_run(tmp_path))
