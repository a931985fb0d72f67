"""Gradients: accumulation, several backward passes, scaling, clipping, what is missing or not finite."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.models import SmallModel, assert_same, finished, learn, make_batches, reference, small_monitor
from tests.monitor.steps import measure


@pytest.mark.parametrize('frequency', [4, 1])
def test_with_accumulation_gradients_stand_where_the_cycle_ends(frequency: int) -> None:
    model = SmallModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = small_monitor(model, frequency=frequency)
    measured = []
    for iteration in range(8):
        ends = iteration % 3 == 2
        measured.append(measure(model, monitor, iteration, optimizer=optimizer if ends else None, backward=ends))
    records = {record.iteration: record.scalars for record in finished(monitor)}
    due = [iteration for iteration in range(8) if iteration % frequency == 0]
    ends = [2, 5]
    assert sorted(records) == sorted({*due, *ends})
    for iteration, scalars in records.items():
        families = {name.split('/')[0] for name in scalars}
        assert ('norm' in families) == (iteration in due), iteration
        assert ('logits' in families) == (iteration in due), iteration
        assert ('grad' in families) == (iteration in ends), iteration
    for iteration in ends:
        total = torch.cat([g.double().flatten() for g in measured[iteration].gradients.values() if g is not None])
        assert records[iteration]['grad/model/_total_norm'] == pytest.approx(total.norm().item(), rel=1e-6)


def test_accumulation_gives_one_report_of_the_accumulated_gradient_per_optimizer_step() -> None:
    model = SmallModel()
    monitor = small_monitor(model, frequency=2)
    measure(model, monitor, 0, backward=False)
    measured = measure(model, monitor, 1)
    measure(model, monitor, 2, backward=False)
    measure(model, monitor, 3)
    records = finished(monitor)
    assert [r.iteration for r in records if 'grad/model/_total_norm' in r.scalars] == [1, 3]
    expected = reference(model, measured)
    for name in ('grad/encoder/_total_norm', 'grad/head_policy_task2/_total_norm', 'grad/model/_total_norm'):
        assert records[1].scalars[name] == pytest.approx(expected[name], rel=1e-6)


def test_tasks_that_move_within_a_cycle_leave_its_gradient_due() -> None:
    model = SmallModel()
    monitor = small_monitor(model, frequency=4)
    for iteration in range(3):
        with monitor.step(iteration) as step:
            learn(model, make_batches(), step, backward=iteration > 0)
        if iteration == 0:
            model.zero_grad()
            monitor.reassign([[0, 1, 2]])
    first, second = finished(monitor)
    assert (first.iteration, second.iteration) == (0, 1)
    assert 'grad/model/_total_norm' in second.scalars


def test_a_policy_without_a_backward_end_is_not_measured_all_the_time() -> None:
    monitor = small_monitor(SmallModel(), frequency=3)
    due = []
    for iteration in range(7):
        with monitor.step(iteration) as step:
            due.append(step.due)
            step.forward_end()
            step.step_end()
    assert due == [True, False, False, True, False, False, True]
    assert [record.iteration for record in finished(monitor)] == [0, 3, 6]


def test_several_backward_passes_of_one_step() -> None:
    model = SmallModel()
    monitor = small_monitor(model)
    with monitor.step(0) as step:
        for batch in make_batches():
            model(batch)['logits/value'].sum().backward(retain_graph=False)
        step.forward_end()
        step.backward_end()
    total = torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None]).norm().item()
    (record,) = finished(monitor)
    assert record.scalars['grad/model/_total_norm'] == pytest.approx(total, rel=1e-6)


def test_a_backward_end_for_each_of_two_optimizers() -> None:
    model = SmallModel()
    monitor = small_monitor(model)
    shared = {id(p) for p in model.transformer.parameters()}
    norms = {}
    with monitor.step(0) as step:
        step.forward_end()
        for task_id, scale in ((0, 1.0), (1, 4.0)):
            (model(make_batches()[task_id])['logits/value'].sum() * scale).backward()
            head = model.head_value_multi_task[task_id]
            norms[f'grad/head_value_task{task_id}/_total_norm'] = (
                torch.cat([p.grad.double().flatten() for p in head.parameters()]).norm().item() / scale
            )
            if task_id == 0:
                gradients = [p.grad for p in model.parameters() if id(p) in shared]
                norms['grad/transformer/_total_norm'] = (
                    torch.cat([g.double().flatten() for g in gradients]).norm().item()
                )
            step.backward_end(scale=scale)
            for parameter in model.head_value_multi_task[task_id].parameters():
                parameter.grad = None  # stepped and cleared
    (record,) = finished(monitor)
    for name, value in norms.items():
        assert record.scalars[name] == pytest.approx(value, rel=1e-6), name


@pytest.mark.parametrize('scale', [65536.0, 2.0, 0.5])
def test_gradients_are_reported_unscaled_exactly_once(scale: float) -> None:
    model = SmallModel()
    batch = make_batches()[0]
    norms = []
    for factor in (1.0, scale):
        model.zero_grad()
        monitor = small_monitor(model)
        with monitor.step(0) as step:
            (model(batch)['logits/value'].mean() * factor).backward()
            step.forward_end()
            step.backward_end(scale=factor)
        (record,) = finished(monitor)
        norms.append({name: value for name, value in record.scalars.items() if name.startswith('grad/')})
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)


def test_gradients_are_measured_before_clipping() -> None:
    model = SmallModel()
    monitor = small_monitor(model)
    measured = measure(model, monitor, clip=1e-3)
    (record,) = finished(monitor)
    assert record.scalars['grad/model/_total_norm'] > 1
    assert_same(record.scalars, reference(model, measured))


def test_zero_gradients_are_zero_and_missing_ones_are_absent() -> None:
    model = SmallModel()
    for parameter in model.transformer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model.tokenizer.encoder[0][0].weight.grad = torch.ones_like(model.tokenizer.encoder[0][0].weight)
    monitor = small_monitor(model)
    with monitor.step(0) as step:
        step.forward_end()
        step.backward_end()
    scalars = finished(monitor)[0].scalars
    assert scalars['grad/transformer/_total_norm'] == 0
    assert 'monitor/no_gradient/transformer' not in scalars
    assert scalars['monitor/without_gradient/encoder'] == 1
    assert scalars['grad/encoder/_total_norm'] == pytest.approx(model.tokenizer.encoder[0][0].weight.numel() ** 0.5)
    assert scalars['monitor/no_gradient/other'] == 1
    assert 'grad/other/_total_norm' not in scalars
    assert 'grad/head_value_all_tasks/mean' not in scalars


def test_nan_in_one_gradient_leaves_its_neighbours_clean() -> None:
    model = SmallModel()
    model.zero_grad()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    bad = model.head_policy_multi_task[1].weight
    bad.grad[0, :3] = torch.tensor([float('nan'), float('inf'), -float('inf')])
    monitor = small_monitor(model)
    with monitor.step(0) as step:
        step.forward_end()
        step.backward_end()
    scalars = finished(monitor)[0].scalars
    head = sum(p.numel() for p in model.head_policy_multi_task[1].parameters())
    assert scalars['monitor/nonfinite/grad/head_policy_task1'] == 3
    assert [name for name in scalars if 'nonfinite' in name] == ['monitor/nonfinite/grad/head_policy_task1']
    assert scalars['grad/head_policy_task1/_total_norm'] == pytest.approx((head - 3) ** 0.5, rel=1e-6)
    everything = sum(p.numel() for p in model.parameters())
    assert scalars['grad/model/_total_norm'] == pytest.approx((everything - 3) ** 0.5, rel=1e-6)
    assert all(np.isfinite(value) for value in scalars.values())


def test_nan_in_one_weight_is_counted_too() -> None:
    model = SmallModel()
    with torch.no_grad():
        model.head_value_multi_task[2].bias[0] = float('nan')
    monitor = small_monitor(model)
    with monitor.step(0) as step:
        step.forward_end()
        step.backward_end()
    scalars = finished(monitor)[0].scalars
    assert scalars['monitor/nonfinite/norm/head_value_task2'] == 1
    assert scalars['parameters/model/trainable'] == sum(p.numel() for p in model.parameters())
    assert all(np.isfinite(value) for value in scalars.values())


def test_a_huge_finite_gradient_has_a_finite_norm() -> None:
    model = SmallModel()
    for parameter in model.head_value_multi_task[0].parameters():
        parameter.grad = torch.full_like(parameter, 1e25)
    count = sum(p.numel() for p in model.head_value_multi_task[0].parameters())
    monitor = small_monitor(model)
    with monitor.step(0) as step:
        step.forward_end()
        step.backward_end()
    scalars = finished(monitor)[0].scalars
    assert scalars['grad/head_value_task0/_total_norm'] == pytest.approx(1e25 * count**0.5, rel=1e-6)
    assert scalars['grad/model/_total_norm'] == pytest.approx(1e25 * count**0.5, rel=1e-6)
    assert not [name for name in scalars if 'nonfinite' in name]
