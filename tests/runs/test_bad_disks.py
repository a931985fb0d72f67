"""Disks that are full, gone, read-only or far away: training goes on, and what waited is written."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ding_normmon import Monitor, Record
from ding_normmon.core.destination import RunDescription
from ding_normmon.runs import history_file, read_run
from ding_normmon.runs.check import check_run
from ding_normmon.runs.history_file import FILE_NAME, HistoryFile
from ding_normmon.runs.report.page import render_page
from tests.runs.histories import points


def failing(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(history_file.os, name, fail)


@pytest.mark.parametrize('call', ['pwrite', 'open', 'ftruncate'])
@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EIO, errno.ESTALE, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_what_waited_is_written_as_soon_as_that_is_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    path = tmp_path / FILE_NAME
    file = HistoryFile(path)
    if call == 'pwrite':
        file.publish(Record(0, {'a': 0.0}))
    failing(monkeypatch, call, number)
    for at in (1, 2, 3):
        with pytest.raises(OSError, match=os.strerror(number)):
            file.publish(Record(at, {'a': float(at), f'b{at}': 1.0}))
    monkeypatch.undo()
    file.publish(Record(4, {'a': 4.0}))
    file.close()
    run = read_run(path)
    assert points(run) == {at: float(at) for at in range(0 if call == 'pwrite' else 1, 5)}
    assert run.warnings == []
    assert set(run.series) == {'a', 'b1', 'b2', 'b3'}


@pytest.mark.parametrize('call', ['stat', 'fstat', 'close'])
@pytest.mark.parametrize('number', [errno.ESTALE, errno.EIO, errno.ETIMEDOUT])
def test_a_handle_that_a_file_server_no_longer_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """As network drives answer after the server was started again: the file is opened anew, and nothing is lost."""
    path = tmp_path / FILE_NAME
    file = HistoryFile(path)
    file.publish(Record(0, {'a': 0.0}))
    really = os.close
    failing(monkeypatch, call, number)
    if call == 'close':
        fail = history_file.os.close
        monkeypatch.setattr(history_file.os, 'close', lambda file: (really(file), fail()))
        failing(monkeypatch, 'pwrite', number)
    raised = []
    for at in (1, 2):
        try:
            file.publish(Record(at, {'a': float(at)}))
        except OSError as error:
            raised.append(error.errno)
    assert raised
    assert set(raised) == {number}
    monkeypatch.undo()
    file.publish(Record(3, {'a': 3.0}))
    assert points(read_run(path)) == {at: float(at) for at in range(4)}
    file.close()


@pytest.mark.parametrize('number', [errno.ENOLCK, errno.ENOTSUP, errno.EIO])
def test_a_drive_that_cannot_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    file = HistoryFile(tmp_path / FILE_NAME)
    monkeypatch.setattr(history_file.fcntl, 'flock', fail)
    if number == errno.EIO:
        with pytest.raises(OSError, match='Input/output'):
            file.publish(Record(0, {'a': 0.0}))
        monkeypatch.undo()
    else:
        file.publish(Record(0, {'a': 0.0}))
        assert 'start no two runs in one folder' in caplog.text
    file.publish(Record(1, {'a': 1.0}))
    file.close()
    assert points(read_run(tmp_path)) == {0: 0.0, 1: 1.0}


@pytest.mark.parametrize('jump', [-1e9, -3600.0, 3600.0, 1e12])
def test_a_clock_that_is_set_while_records_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    now = time.time
    file = HistoryFile(tmp_path / FILE_NAME)
    file.publish(Record(0, {'a': 0.0}))
    monkeypatch.setattr(time, 'time', lambda: now() + jump)
    file.publish(Record(1, {'a': 1.0}))
    file.close()
    # Another start, after the clock was set back.
    monkeypatch.undo()
    again = HistoryFile(tmp_path / FILE_NAME)
    again.begin(RunDescription(begins_at=1))
    again.publish(Record(1, {'a': 5.0}))
    again.publish(Record(2, {'a': 2.0}))
    again.close()
    run = read_run(tmp_path)
    assert points(run) == {0: 0.0, 1: 5.0, 2: 2.0}
    assert run.warnings == []
    assert render_page([run])
    [checked] = check_run(tmp_path)
    assert checked.errors == []


def test_a_folder_that_goes_and_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / 'run'
    file = HistoryFile(folder / FILE_NAME)
    file.publish(Record(0, {'a': 0.0}))
    shutil.rmtree(folder)
    for iteration in (1, 2):
        with pytest.raises(FileNotFoundError):
            file.publish(Record(iteration, {'a': float(iteration)}))
    assert not folder.exists()
    folder.mkdir()
    file.publish(Record(3, {'a': 3.0}))
    file.close()
    assert points(read_run(folder)) == {1: 1.0, 2: 2.0, 3: 3.0}


def test_a_folder_that_is_moved_away_and_back(tmp_path: Path) -> None:
    folder = tmp_path / 'run'
    file = HistoryFile(folder / FILE_NAME)
    file.publish(Record(0, {'a': 0.0}))
    folder.rename(tmp_path / 'elsewhere')
    with pytest.raises(FileNotFoundError, match='no longer there'):
        file.publish(Record(1, {'a': 1.0}))
    (tmp_path / 'elsewhere').rename(folder)
    file.publish(Record(2, {'a': 2.0}))
    file.close()
    assert points(read_run(folder)) == {0: 0.0, 1: 1.0, 2: 2.0}


def test_what_waits_is_bounded_and_what_is_dropped_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_file, '_MOST_WAITING', 20_000)
    file = HistoryFile(tmp_path / FILE_NAME)
    file.publish(Record(0, {'a': 0.0}))
    failing(monkeypatch, 'pwrite', errno.ENOSPC)
    raised = []
    for iteration in range(1, 41):
        try:
            file.publish(Record(iteration, {'a': float(iteration)}))
        except (OSError, RuntimeError) as error:
            raised.append(type(error))
    assert len(raised) == 40
    assert RuntimeError in raised
    assert file._waiting_bytes <= 20_000
    monkeypatch.undo()
    file.publish(Record(41, {'a': 41.0}))
    file.close()
    kept = list(points(read_run(tmp_path)))
    assert kept[0] == 0
    assert kept[1:] == list(range(kept[1], 42))
    assert 5 < len(kept) < 30


def test_a_record_that_cannot_be_written_at_all_holds_up_nothing(tmp_path: Path) -> None:
    file = HistoryFile(tmp_path / FILE_NAME)
    file.publish(Record(0, {'a': 0.0}))
    with pytest.raises((TypeError, ValueError)):
        file.publish(Record(1, {'new': 'no number'}))  # type: ignore[dict-item]
    file.publish(Record(2, {'a': 2.0, 'new': 1.0}))
    file.close()
    run = read_run(tmp_path)
    assert points(run) == {0: 0.0, 2: 2.0}
    assert points(run, 'new') == {2: 1.0}


def test_training_is_the_same_and_losses_are_counted(tmp_path: Path) -> None:
    def train(folder: Path, disturb: bool) -> tuple[list[Any], Monitor]:
        torch.manual_seed(0)
        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        with Monitor(
            model, {'monitor_norm_freq': 1}, optimizer=optimizer, destinations=[HistoryFile(folder / FILE_NAME)]
        ) as monitor:
            for iteration in range(30):
                if disturb and iteration == 10:
                    shutil.rmtree(folder, ignore_errors=True)
                optimizer.zero_grad()
                model(torch.ones(2, 4)).square().mean().backward()
                optimizer.step()
        return [parameter.tolist() for parameter in model.parameters()], monitor

    (tmp_path / 'b').mkdir()
    undisturbed, _ = train(tmp_path / 'a', disturb=False)
    disturbed, monitor = train(tmp_path / 'b', disturb=True)
    assert disturbed == undisturbed
    lost = monitor.lost_data.total.get('destination_HistoryFile', 0)
    assert lost > 0 or (tmp_path / 'b' / FILE_NAME).exists()
