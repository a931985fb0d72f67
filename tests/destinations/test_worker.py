"""A destination gets the tasks' names before its first record, and only if there is one."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from torch import nn

from ding_normmon import Monitor
from ding_normmon.core.lost_data import LostData
from ding_normmon.core.record import Record
from ding_normmon.destinations import RunDescription
from ding_normmon.destinations.worker import DestinationWorker


class Listener:
    def __init__(self, error: Exception | None = None) -> None:
        self.heard: list[object] = []
        self.error = error

    def begin(self, description: RunDescription) -> None:
        self.heard.append(description)
        if self.error is not None:
            raise self.error

    def publish(self, record: Record) -> None:
        self.heard.append(record.iteration)

    def close(self) -> None:
        self.heard.append('closed')


def test_names_and_configuration_come_before_the_first_record() -> None:
    listener = Listener()
    model = nn.Linear(2, 1)
    config = {'monitor_norm_freq': 1, 'module_groups': {'all': 'weight'}}
    monitor = Monitor(model, config, num_tasks=3, task_names=['Pong', 'Boxing'], destinations=[listener])
    for iteration in range(2):
        with monitor.step(iteration) as step:
            step.forward_end()
            model(torch.ones(1, 2)).sum().backward()
            step.backward_end()
    monitor.close()
    description, *rest = listener.heard
    assert rest == [0, 1, 'closed']
    assert isinstance(description, RunDescription)
    assert description.tasks == {0: 'Pong', 1: 'Boxing', 2: 'task 2'}
    assert description.configuration['monitor_norm_freq'] == 1


def test_without_a_record_it_is_only_closed() -> None:
    listener = Listener()
    DestinationWorker(listener, LostData()).close(timeout=5)
    assert listener.heard == ['closed']


def test_a_destination_that_cannot_begin_is_offered_records_all_the_same() -> None:
    listener, lost_data = Listener(OSError('no')), LostData()
    worker = DestinationWorker(listener, lost_data)
    worker.enqueue(Record(1))
    worker.close(timeout=5)
    assert listener.heard == [RunDescription(), 1, 'closed']
    assert lost_data.total == {'destination_Listener': 1}


def test_records_that_come_too_fast_are_no_full_disk(caplog: pytest.LogCaptureFixture) -> None:
    """A destination that takes one after the other in time is not stuck."""

    class Slow(Listener):
        def publish(self, record: Record) -> None:
            time.sleep(0.005)
            super().publish(record)

    slow, lost_data = Slow(), LostData()
    worker = DestinationWorker(slow, lost_data)
    for iteration in range(200):
        worker.enqueue(Record(iteration))
    worker.close(timeout=5)
    assert lost_data.total['destination_Slow'] == 200 - (len(slow.heard) - 2)
    assert 'more slowly than they come' in caplog.text
    assert 'disk' not in caplog.text


def test_a_destination_that_is_stuck_is_called_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, entered = threading.Event(), threading.Event()

    class Stuck(Listener):
        def publish(self, record: Record) -> None:
            entered.set()
            released.wait()

    worker = DestinationWorker(Stuck(), LostData())
    worker.enqueue(Record(0))
    worker.flush()
    assert entered.wait(5)
    now = time.monotonic()
    monkeypatch.setattr(time, 'monotonic', lambda: now + 60)
    for iteration in range(1, 70):
        worker.enqueue(Record(iteration))
    released.set()
    worker.close(timeout=5)
    assert 'busy with one record for 60 s: is its disk full, or very slow?' in caplog.text


@pytest.mark.parametrize('error', [SystemExit, KeyboardInterrupt, OSError])
def test_whatever_a_destination_raises_the_next_record_is_offered(error: type[BaseException]) -> None:
    class Leaving:
        def __init__(self) -> None:
            self.seen: list[int] = []

        def publish(self, record: Record) -> None:
            self.seen.append(record.iteration)
            if record.iteration == 0:
                raise error

        def close(self) -> None:
            pass

    destination, lost_data = Leaving(), LostData()
    worker = DestinationWorker(destination, lost_data)
    for iteration in range(3):
        worker.enqueue(Record(iteration))
    worker.close(timeout=5)
    assert destination.seen == [0, 1, 2]
    assert lost_data.total == {'destination_Leaving': 1}
