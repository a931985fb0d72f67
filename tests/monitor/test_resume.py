"""A run that is resumed has each monitored iteration once."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX import SummaryWriter
from torch import nn

from ding_normmon import Monitor, Record
from ding_normmon.destinations import TensorBoard
from ding_normmon.destinations.tensorboard.resume import drop_records


def train(monitor: Monitor, iterations: range) -> list[int]:
    """Take learner steps and return the iterations of the records that came of them."""
    for iteration in iterations:
        with monitor.step(iteration) as step:
            loss = monitor.model(torch.ones(1, 2)).sum()
            step.forward_end()
            loss.backward()
            step.backward_end()
    monitor.close()
    return [record.iteration for record in monitor.take_records()]


def make(*destinations: Any, **config: Any) -> Monitor:
    return Monitor(nn.Linear(2, 1), {'monitor_norm_freq': 5, **config}, destinations=destinations)


class Listener:
    """A destination that keeps the iterations of what it is given."""

    def __init__(self) -> None:
        self.heard: list[int] = []

    def publish(self, record: Record) -> None:
        self.heard.append(record.iteration)

    def close(self) -> None: ...


def test_a_checkpoint_has_the_records_before_it_written() -> None:
    listener = Listener()
    monitor = make(listener, monitor_norm_freq=1)
    monitor._reducer._queue._seconds = 1e6  # records wait for each other
    for iteration in range(6):
        with monitor.step(iteration) as step:
            step.forward_end()
            time.sleep(0.05)
    time.sleep(0.2)
    assert len(listener.heard) < 6
    monitor.state_dict()
    until = time.monotonic() + 10
    while len(listener.heard) < 6 and time.monotonic() < until:
        time.sleep(0.01)
    assert listener.heard == list(range(6))
    monitor.close()


def test_a_stretched_schedule_is_resumed() -> None:
    first = make()
    first.control.on('slower', lambda decision: setattr(first, 'frequency', 10))
    first.control.post('slower', iteration=12)
    assert train(first, range(33)) == [0, 5, 10, 20, 30]
    resumed = make()
    resumed.load_state_dict(first.state_dict())
    assert train(resumed, range(33, 61)) == [40, 50, 60]


def test_a_newly_configured_frequency_wins_over_an_old_decision() -> None:
    first = make()
    first.frequency = 20
    train(first, range(11))
    resumed = make(monitor_norm_freq=3)
    resumed.load_state_dict(first.state_dict())
    assert train(resumed, range(11, 20)) == [12, 15, 18]


def test_what_was_measured_before_the_checkpoint_is_not_measured_again() -> None:
    first = make()
    assert train(first, range(11)) == [0, 5, 10]
    resumed = make()
    resumed.load_state_dict(first.state_dict())
    assert train(resumed, range(8, 16)) == [15]


def test_a_monitor_that_is_switched_off_stays_off() -> None:
    off = make(monitor_norm_freq=0)
    off.load_state_dict(make().state_dict())
    assert train(off, range(10)) == []
    on = make()
    on.load_state_dict(off.state_dict())
    assert train(on, range(11)) == [0, 5, 10]


def curves(folder: Path) -> dict[str, list[int]]:
    accumulator = EventAccumulator(str(folder), size_guidance={'scalars': 0})
    accumulator.Reload()
    return {tag: [point.step for point in accumulator.Scalars(tag)] for tag in accumulator.Tags()['scalars']}


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """A run that checkpointed at iteration 12 and died after iteration 22."""
    writer = SummaryWriter(str(tmp_path))
    writer.add_scalar('return', 1.0, 500)
    train(make(TensorBoard(writer)), range(23))
    writer.close()
    assert curves(tmp_path)['norm/model/_total_norm'] == [0, 5, 10, 15, 20]
    return tmp_path


def test_what_is_trained_again_is_taken_out_of_the_event_file(interrupted: Path) -> None:
    assert drop_records(interrupted, 12) == 2
    kept = curves(interrupted)
    assert kept.pop('return') == [500]
    kept.pop('monitor/cost/ms_diagnosis')  # of the records that were judged
    assert all(steps == [0, 5, 10] for steps in kept.values())
    assert len(list(interrupted.iterdir())) == 1


def test_a_file_that_was_cut_short_keeps_what_is_whole(interrupted: Path) -> None:
    (path,) = interrupted.iterdir()
    path.write_bytes(path.read_bytes()[:-7])
    assert drop_records(interrupted, 12) == 1
    assert curves(interrupted)['norm/model/_total_norm'] == [0, 5, 10]


def test_a_file_with_nothing_to_take_out_is_not_touched(interrupted: Path) -> None:
    (path,) = interrupted.iterdir()
    before = path.stat()
    assert drop_records(interrupted, 23) == 0
    assert path.stat() == before


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(
    'make_other',
    [Path.mkdir, os.mkfifo, make_socket, lambda path: path.symlink_to('/dev/zero'), lambda path: path.write_text('?')],
)
def test_what_is_no_event_file_keeps_no_other_from_being_hidden(
    interrupted: Path, monkeypatch: pytest.MonkeyPatch, make_other: Callable[[Path], object]
) -> None:
    monkeypatch.chdir(interrupted)  # the name of a socket must be short
    make_other(Path('events.out.tfevents.1.other'))
    assert drop_records(interrupted, 12) == 2


def test_a_linked_event_file_is_not_written_through(
    interrupted: Path, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = tmp_path_factory.mktemp('elsewhere') / 'events'
    (path,) = interrupted.iterdir()
    elsewhere.write_bytes(path.read_bytes())
    (interrupted / 'events.out.tfevents.1.link').symlink_to(elsewhere)
    before = path.read_bytes()
    assert drop_records(interrupted, 12) == 2
    assert (elsewhere.read_bytes(), path.read_bytes() == before) == (before, False)
    assert 'events.out.tfevents.1.link stays as it is' in caplog.text
