"""What the monitor reports on one process, against float64; any dtype, and the path of accelerators."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ding_normmon import Monitor
from ding_normmon.core.step import SignalError
from tests.accelerator import take_accelerators_path
from tests.models import SmallModel, assert_same, finished, make_batches, reference, small_monitor
from tests.monitor.steps import measure, publish_and_end

# -- every metric ------------------------------------------------------------------------------------------------------


def test_every_metric_is_that_of_float64_on_the_same_tensors() -> None:
    model = SmallModel()
    monitor = small_monitor(model)
    measured = measure(model, monitor)
    (record,) = finished(monitor)
    assert record.iteration == 0
    expected = reference(model, measured)
    assert len(expected) > 90
    assert_same(record.scalars, expected)


def test_every_metric_over_a_few_steps_of_training() -> None:
    model = SmallModel()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    monitor = small_monitor(model)
    expected = [reference(model, measure(model, monitor, iteration, optimizer=optimizer)) for iteration in range(4)]
    records = finished(monitor)
    assert [record.iteration for record in records] == [0, 1, 2, 3]
    for record, metrics in zip(records, expected, strict=True):
        assert_same(record.scalars, metrics)


def test_tasks_that_are_not_in_the_batch_are_absent() -> None:
    model = SmallModel()
    monitor = small_monitor(model)
    measured = measure(model, monitor, batches=make_batches(tasks=(2, 0)))
    (record,) = finished(monitor)
    assert_same(record.scalars, reference(model, measured))
    assert record.scalars['monitor/no_gradient/head_value_task1'] == 1
    assert 'grad/head_value_task1/_total_norm' not in record.scalars
    assert not [name for name in record.scalars if 'logits' in name and 'task1' in name]


def test_of_one_task_there_is_no_spread_across_tasks() -> None:
    model = SmallModel(actions=(4,))
    monitor = small_monitor(model, tasks=1)
    measured = measure(model, monitor, batches=make_batches((4,), (3,), tasks=(0,)))
    (record,) = finished(monitor)
    assert_same(record.scalars, reference(model, measured))
    assert 'norm/head_value_all_tasks/mean' in record.scalars
    assert 'norm/head_value_all_tasks/std' not in record.scalars


def test_a_single_task_policy_has_no_task_suffix() -> None:
    model = SmallModel(actions=(4,))
    (batch,) = make_batches((4,), (3,), tasks=(0,))
    monitor = Monitor(model, {'monitor_norm_freq': 1})
    with monitor.step(0) as step:
        signals = model(batch)
        step.publish('logits/value', signals['logits/value'], mask=batch.mask)
        step.forward_end()
        signals['logits/value'].sum().backward()
        step.backward_end()
    (record,) = finished(monitor)
    assert not [name for name in record.scalars if '_task' in name]
    for name in ('norm/head_value/_total_norm', 'norm/encoder/_total_norm', 'logits/value/abs_max'):
        assert name in record.scalars


def test_a_single_task_policy_cannot_publish_a_task() -> None:
    monitor = Monitor(nn.Linear(2, 1), {'monitor_norm_freq': 1})
    with pytest.raises(SignalError, match='logits/value: unknown task id 0; this policy has a single task'):
        publish_and_end(monitor, 'logits/value', torch.zeros(2), task_id=0)


def test_a_process_that_trains_some_tasks_reports_them_by_global_id() -> None:
    model = SmallModel()
    monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=3, task_ids=[2, 1])
    measured = measure(model, monitor, batches=make_batches(tasks=(2, 1)))
    assert_same(finished(monitor)[0].scalars, reference(model, measured))


# -- dtypes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
def test_models_of_other_precisions(dtype: torch.dtype) -> None:
    model = SmallModel().to(dtype)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    monitor = small_monitor(model)
    with monitor.step(0) as step:
        step.forward_end()
        step.backward_end()
    scalars = finished(monitor)[0].scalars
    weights = torch.cat([p.detach().double().flatten() for p in model.parameters()]).norm().item()
    gradients = torch.cat([p.grad.double().flatten() for p in model.parameters()]).norm().item()
    assert scalars['norm/model/_total_norm'] == pytest.approx(weights, rel=1e-6)
    assert scalars['grad/model/_total_norm'] == pytest.approx(gradients, rel=1e-6)


def test_signals_of_autocast() -> None:
    model = SmallModel()
    monitor = small_monitor(model)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        measured = measure(model, monitor)
    assert {tensor.dtype for tensor, _ in measured.signals.values()} >= {torch.bfloat16}
    assert_same(finished(monitor)[0].scalars, reference(model, measured))


# -- the path of accelerators, forced on a CPU -------------------------------------------------------------------------


@pytest.mark.parametrize('capacity', [4, 512])
def test_every_metric_on_the_path_of_accelerators(capacity: int, monkeypatch: pytest.MonkeyPatch) -> None:
    take_accelerators_path(monkeypatch, capacity)
    model = SmallModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = small_monitor(model)
    expected = [reference(model, measure(model, monitor, iteration, optimizer=optimizer)) for iteration in range(4)]
    records = finished(monitor)
    assert len(records) == 4
    for record, metrics in zip(records, expected, strict=True):
        assert_same(record.scalars, metrics)


class SlowEvent:
    """An event that is reached when it is told so."""

    reached = False

    def record(self) -> None:
        pass

    def query(self) -> bool:
        return SlowEvent.reached

    def synchronize(self) -> None:
        SlowEvent.reached = True


@pytest.mark.usefixtures('as_accelerator')
def test_copies_that_lag_behind_are_counted_and_recovered_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SlowEvent, 'reached', False)
    model = SmallModel()
    monitor = small_monitor(model)
    for slot in monitor._prepared.buffer._free:
        slot.event = SlowEvent()  # type: ignore[assignment]
    measured = {}
    for iteration in range(12):
        SlowEvent.reached = iteration >= 8
        with torch.no_grad():
            model.head_value_multi_task[0].weight.add_(1)
        measured[iteration] = measure(model, monitor, iteration)
        model.zero_grad()
    records = finished(monitor)
    iterations = [record.iteration for record in records]
    assert iterations == [0, 1, 2, 3, 8, 9, 10, 11]
    assert monitor.lost_data.total['device_copy'] == 4
    for record in records:
        scalars = {name: value for name, value in record.scalars.items() if 'monitor/lost' not in name}
        assert_same(scalars, reference(model, measured[record.iteration]))


def test_a_monitor_that_is_made_in_inference_mode() -> None:
    model = nn.Linear(2, 2)
    with torch.inference_mode():
        monitor = Monitor(model, {'monitor_norm_freq': 1})
    with monitor.step(0) as step:
        step.forward_end()
        model(torch.ones(1, 2)).sum().backward()
        step.backward_end(torch.tensor(2.0))
    scalars = finished(monitor)[0].scalars
    assert scalars['grad/model/_total_norm'] == pytest.approx(6.0**0.5 / 2)
    assert not monitor.lost_data.total
