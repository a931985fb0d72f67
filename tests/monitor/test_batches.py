"""What a step has left is named in whichever thread asks first, and before the groups change."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from ding_normmon.rows.table import Batch
from ding_normmon.rows.waiting_batch import WaitingBatch
from tests.models import SmallModel, small_monitor


def test_a_batch_is_made_once_whoever_asks() -> None:
    made: list[str] = []

    def make() -> Batch:
        made.append(threading.current_thread().name)
        time.sleep(0.05)
        return Batch(3, (), np.zeros((0, 6)))

    waiting = WaitingBatch(make)
    found: list[Batch] = []
    threads = [threading.Thread(target=lambda: found.append(waiting.get())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert all(batch is found[0] for batch in found)
    assert waiting.is_made


def test_the_numbers_of_a_step_are_those_of_that_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A background thread that is late by several steps names numbers that nobody has overwritten."""
    model = SmallModel()
    monitor = small_monitor(model)
    waiting: list[WaitingBatch] = []
    monkeypatch.setattr(monitor._reducer, 'submit', waiting.append)
    expected = []
    for iteration in range(5):
        with monitor.step(iteration) as step:
            step.forward_end()
            expected.append(sum(float(p.detach().double().square().sum()) for p in model.parameters()))
            for parameter in model.parameters():
                parameter.data.mul_(1.5)
    for number, square in zip(waiting, expected, strict=True):
        assert not number.is_made
        batch = number.get()
        found = sum(
            row[2] for key, row in zip(batch.keys, batch.rows, strict=True) if key.metric == 'parameter_norms'
        )
        assert found == pytest.approx(square, rel=1e-9)
    monitor.close()


def test_numbers_are_named_before_tasks_move(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = small_monitor(SmallModel())
    waiting: list[WaitingBatch] = []
    monkeypatch.setattr(monitor._reducer, 'submit', waiting.append)
    with monitor.step(0) as step:
        step.forward_end()
    assert not waiting[0].is_made
    monitor.reassign([[0, 2]])
    assert waiting[0].is_made
    monitor.close()
