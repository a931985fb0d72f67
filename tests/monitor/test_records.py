"""Records: where they go and how they are taken."""

from __future__ import annotations

import logging

import pytest
import torch

from ding_normmon import Monitor, Record
from tests.models import SmallModel, assert_same, finished, reference, small_monitor
from tests.monitor.steps import Recorder, measure

# -- destinations ------------------------------------------------------------------------------------------------------


class Broken(Recorder):
    """A destination that never works."""

    def publish(self, record: Record) -> None:
        raise OSError('no space left on device')

    def close(self) -> None:
        raise OSError('no space left on device')


def test_a_destination_that_raises_is_survived(caplog: pytest.LogCaptureFixture) -> None:
    model = SmallModel()
    recorder = Recorder()
    monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=3, destinations=[Broken(), recorder])
    with caplog.at_level(logging.WARNING, 'ding_normmon'):
        for iteration in range(3):
            measure(model, monitor, iteration)
        monitor.close()
    assert [record.iteration for record in recorder.records] == [0, 1, 2]
    assert len([record for record in caplog.records if 'could not take' in record.getMessage()]) <= 1
    assert sum(amount for reason, amount in monitor.lost_data.total.items() if 'Broken' in reason) >= 3


def test_close_publishes_what_is_under_way() -> None:
    model = SmallModel()
    recorder = Recorder()
    monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=3, destinations=[recorder])
    for iteration in range(20):
        measure(model, monitor, iteration)
    monitor.close()
    assert [record.iteration for record in recorder.records] == list(range(20))


# -- results -----------------------------------------------------------------------------------------------------------


def test_records_are_taken_once_and_in_order() -> None:
    model = SmallModel()
    monitor = small_monitor(model)
    taken = []
    for iteration in range(5):
        measure(model, monitor, iteration)
        taken += monitor.take_records()
    taken += finished(monitor)
    assert [record.iteration for record in taken] == list(range(5))
    assert monitor.take_records() == []


def test_local_figures_of_the_same_step() -> None:
    model = SmallModel()
    monitor = small_monitor(model, merge_train_output=True, frequency=2)
    measured = measure(model, monitor, 0)
    assert_same(monitor.take_local_scalars(), reference(model, measured))
    assert monitor.take_local_scalars() == {}
    measure(model, monitor, 1)
    assert monitor.take_local_scalars() == {}
    monitor.close()


def test_scalars_are_python_floats() -> None:
    model = SmallModel()
    monitor = small_monitor(model, detail='parameter')
    model.tokenizer.requires_grad_(False)
    measure(model, monitor)
    assert {type(value) for value in finished(monitor)[0].scalars.values()} == {float}


def test_losses_that_are_not_finite_are_counted_and_not_shown() -> None:
    monitor = small_monitor(SmallModel())
    with monitor.step(0) as step:
        step.publish_loss('loss', float('nan'), task_id=0)
        step.publish_loss('loss', torch.tensor(2.5), task_id=1)
        step.forward_end()
        step.backward_end()
    scalars = finished(monitor)[0].scalars
    assert 'loss_task0' not in scalars
    assert scalars['monitor/nonfinite/loss_task0'] == 1
    assert scalars['loss_task1'] == 2.5
