"""When the monitor measures: the due iterations, and nothing in between."""

from __future__ import annotations

import pytest
import torch

from ding_normmon import INERT, Monitor
from ding_normmon.core.step import LearnerStep
from tests.models import SmallModel, assert_same, finished, learn, make_batches, reference, small_monitor
from tests.monitor.steps import Recorder, measure


def test_points_stand_at_the_due_iterations_and_nowhere_else() -> None:
    model = SmallModel()
    recorder = Recorder()
    monitor = Monitor(model, {'monitor_norm_freq': 5}, num_tasks=3, destinations=[recorder])
    for iteration in range(12):
        measure(model, monitor, iteration)
    records = finished(monitor)
    assert [record.iteration for record in records] == [0, 5, 10]
    assert recorder.records == records
    assert recorder.closed == 1
    assert not any(record.scalars.get('monitor/lost') for record in records)


def test_a_run_that_resumes_between_due_iterations() -> None:
    model = SmallModel()
    monitor = small_monitor(model, frequency=5)
    for iteration in range(13, 21):
        measure(model, monitor, iteration)
    assert [record.iteration for record in finished(monitor)] == [15, 20]


def test_frequency_zero_is_nothing_at_all() -> None:
    model = SmallModel()
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    recorder = Recorder()
    monitor = Monitor(model, {'monitor_norm_freq': 0}, num_tasks=3, destinations=[recorder])
    for iteration in range(3):
        with monitor.step(iteration) as step:
            assert step is INERT
            learn(model, make_batches(), step)
    assert not hasattr(monitor, '_buffer')
    assert monitor.metrics == []
    assert monitor.groups == ()
    monitor.reassign([[0, 1, 2]])
    assert (monitor.take_local_scalars(), monitor.signals_of_step()) == ({}, set())
    assert not monitor.watches_every_step
    for name, module in model.named_modules():
        assert vars(module).keys() == before[name].keys()
        assert not module._forward_hooks
        assert not module._backward_hooks
    assert all(parameter._backward_hooks is None for parameter in model.parameters())
    assert finished(monitor) == []
    assert recorder.records == []


def test_a_step_that_is_not_due_gets_the_inert_object() -> None:
    monitor = small_monitor(SmallModel(), frequency=3)
    assert [monitor.begin_step(iteration) is INERT for iteration in (1, 2, 4)] == [True, True, True]
    step = monitor.begin_step(3)
    assert isinstance(step, LearnerStep)
    assert step.iteration == 3
    monitor.end_step(step)
    monitor.close()


def test_nothing_is_measured_after_close() -> None:
    model = SmallModel()
    monitor = small_monitor(model)
    measure(model, monitor)
    assert len(finished(monitor)) == 1
    with monitor.step(1) as step:
        assert step is INERT
    monitor.close()
    assert monitor.take_records() == []


def test_a_step_that_raises_leaves_the_monitor_usable() -> None:
    model = SmallModel()
    monitor = small_monitor(model)
    with pytest.raises(ZeroDivisionError), monitor.step(0) as step:  # noqa: PT012
        step.publish('logits/value', torch.ones(2, 3), task_id=0)
        raise ZeroDivisionError
    measured = measure(model, monitor, 1)
    record = finished(monitor)[-1]
    assert record.iteration == 1
    # The other signals appear only now.
    scalars = {name: value for name, value in record.scalars.items() if not name.startswith('monitor/late/')}
    assert_same(scalars, reference(model, measured))
