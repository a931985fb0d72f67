"""The monitor on one process: what it reports, when, and that nobody notices it."""

from __future__ import annotations

import copy
import gc
import logging
import random
import time
import tracemalloc
import weakref
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ding_normmon import INERT, ConfigurationError, GroupError, Monitor, Record
from ding_normmon.learner_step import LearnerStep
from ding_normmon.moments import row_of
from ding_normmon.quantities import GradientNorms, ParameterNorms, Quantity, TaskLosses, default_quantities
from ding_normmon.quantities.tensor_statistics import SignalError
from ding_normmon.rows import RowBuffer, RowKey, RowTable
from tests.models import SmallModel, assert_same, finished, learn, make_batches, reference, small_monitor


class Recorder:
    """A destination that keeps what it is given."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.closed = 0

    def publish(self, record: Record) -> None:
        self.records.append(record)

    def close(self) -> None:
        self.closed += 1


def measure(model: nn.Module, monitor: Monitor, iteration: int = 0, **kwargs: Any) -> Any:
    """One learner step on the default batches."""
    with monitor.step(iteration) as step:
        return learn(model, kwargs.pop('batches', make_batches()), step, **kwargs)


# -- every metric ----------------------------------------------------------------------------------------------------


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


# -- when ------------------------------------------------------------------------------------------------------------


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
    assert not hasattr(monitor, 'quantities')
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


# -- gradients -------------------------------------------------------------------------------------------------------


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


# -- groups ----------------------------------------------------------------------------------------------------------


def test_squared_group_norms_add_up_to_the_squared_total() -> None:
    model = SmallModel()
    monitor = small_monitor(model, module_groups={'experts': 'transformer.experts', 'temperature': 'temperature'})
    measure(model, monitor)
    scalars = finished(monitor)[0].scalars
    for family in ('norm', 'grad'):
        groups = [f'{family}/{group.key}/_total_norm' for group in monitor.groups]
        squares = sum(scalars[name] ** 2 for name in groups if name in scalars)
        assert scalars[f'{family}/model/_total_norm'] ** 2 == pytest.approx(squares, rel=1e-9)


def test_a_group_of_the_users_gets_its_aggregate() -> None:
    model = SmallModel()
    model.adapter = nn.ModuleList([nn.Linear(2, 1) for _ in range(3)])
    monitor = small_monitor(model, module_groups={'adapter': 'adapter'})
    measure(model, monitor)
    scalars = finished(monitor)[0].scalars
    norms = [scalars[f'norm/adapter_task{task_id}/_total_norm'] for task_id in range(3)]
    assert scalars['norm/adapter_all_tasks/mean'] == pytest.approx(np.mean(norms), rel=1e-9)
    assert scalars['norm/adapter_all_tasks/std'] == pytest.approx(np.std(norms, ddof=1), rel=1e-9)


def test_freezing_a_module_does_not_make_its_norm_jump() -> None:
    model = SmallModel()
    monitor = small_monitor(model)
    everything = sum(p.numel() for p in model.parameters())
    for iteration, frozen in enumerate([False, True, False]):
        model.tokenizer.requires_grad_(not frozen)
        model.transformer.norm.weight.requires_grad_(not frozen)
        measure(model, monitor, iteration)
    first, frozen_record, last = (record.scalars for record in finished(monitor))
    names = [name for name in first if name.startswith('norm/') and name.endswith('_total_norm')]
    for scalars in (frozen_record, last):
        assert {name: scalars[name] for name in names} == {name: first[name] for name in names}
    encoder = sum(p.numel() for p in model.tokenizer.parameters())
    transformer = sum(p.numel() for p in model.transformer.parameters())
    width = model.transformer.norm.weight.numel()
    assert frozen_record['parameters/encoder/trainable'] == 0
    assert frozen_record['parameters/transformer/trainable'] == transformer - width
    assert frozen_record['parameters/model/trainable'] == everything - encoder - width
    assert first['parameters/model/trainable'] == last['parameters/model/trainable'] == everything


def test_a_dropped_step_leaves_no_hook() -> None:
    model = SmallModel()
    before = sum(len(module._forward_hooks) for module in model.modules())
    monitor = Monitor(model, {'monitor_norm_freq': 1, 'preset': 'multitask'}, num_tasks=3)
    step = monitor.begin_step(0)
    assert sum(len(module._forward_hooks) for module in model.modules()) > before
    monitor.drop_step(step)
    assert sum(len(module._forward_hooks) for module in model.modules()) == before
    monitor.close()
    assert not monitor.losses.total


def test_weights_that_were_given_new_storage_are_seen() -> None:
    model = SmallModel()
    monitor = small_monitor(model)
    measure(model, monitor, 0)
    for parameter in model.parameters():
        parameter.data = parameter.data * 2
    measured = measure(model, monitor, 1)
    assert_same(finished(monitor)[1].scalars, reference(model, measured))


def test_norms_of_single_parameters() -> None:
    model = SmallModel()
    model.head_value_multi_task[0].bias.requires_grad_(False)
    monitor = small_monitor(model, detail='parameter')
    measured = measure(model, monitor)
    scalars = finished(monitor)[0].scalars
    weight = model.head_value_multi_task[0].weight
    assert scalars['norm/head_value_task0/weight'] == pytest.approx(weight.double().norm().item(), rel=1e-6)
    gradient = measured.gradients[id(weight)].double().norm().item()
    assert scalars['grad/head_value_task0/weight'] == pytest.approx(gradient, rel=1e-6)
    expert = model.transformer.experts[1].bias.double().norm().item()
    assert scalars['norm/transformer/experts/1/bias'] == pytest.approx(expert, rel=1e-6)
    # Absent is absent: no gradient is not a gradient of 0.
    assert 'norm/head_value_task0/bias' in scalars
    assert 'grad/head_value_task0/bias' not in scalars
    for family, missing in (('norm', set()), ('grad', {'head_value_task0/bias', 'other/unused/weight'})):
        single = {name for name in scalars if name.startswith(f'{family}/') and name.endswith(('/weight', '/bias'))}
        assert not {f'{family}/{name}' for name in missing} & single
        for group in monitor.groups:
            total = scalars.get(f'{family}/{group.key}/_total_norm')
            found = [scalars.get(f'{family}/{group.key}/{path.replace(".", "/")}', 0.0) for path in group.paths]
            assert sum(value**2 for value in found) == pytest.approx(0.0 if total is None else total**2, rel=1e-9)


def test_the_k_largest_of_each_group() -> None:
    model = SmallModel()
    monitor = small_monitor(model, detail='parameter', top_k=2)
    measure(model, monitor)
    scalars = finished(monitor)[0].scalars
    norms = {
        path.replace('.', '/'): parameter.double().norm().item()
        for path, parameter in model.transformer.named_parameters()
    }
    largest = sorted(norms, key=lambda path: -norms[path])[:2]
    found = {name.removeprefix('norm/transformer/') for name in scalars if name.startswith('norm/transformer/')}
    assert found == {'_total_norm', *largest}


# -- dtypes ----------------------------------------------------------------------------------------------------------


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


# -- signals and quantities of the user's ----------------------------------------------------------------------------


def test_a_signal_under_a_new_name_gets_the_same_treatment() -> None:
    monitor = small_monitor(SmallModel())
    values = {0: torch.randn(3, 2), 1: torch.randn(1, 2) + 5}
    with monitor.step(0) as step:
        for task_id, tensor in values.items():
            step.publish('plasticity/rank', tensor.requires_grad_(), task_id=task_id)
        step.forward_end()
        step.backward_end()
    scalars = finished(monitor)[0].scalars
    everything = torch.cat([tensor.detach().double().flatten() for tensor in values.values()])
    assert scalars['plasticity/rank/std'] == pytest.approx(everything.std().item(), rel=1e-6)
    assert scalars['plasticity/rank/abs_max'] == everything.abs().max().item()
    assert scalars['plasticity/rank_task1/mean'] == pytest.approx(values[1].double().mean().item(), rel=1e-6)
    names = {name for name in scalars if name.startswith('plasticity/')}
    assert names == {
        f'plasticity/rank{suffix}/{statistic}'
        for suffix in ('', '_task0', '_task1')
        for statistic in ('mean', 'std', 'max', 'min', 'abs_max')
    }


class LargestWeight(Quantity):
    """The largest weight after the step, and how much of an embedding is zero."""

    name: ClassVar[str] = 'largest_weight'
    hook_points: ClassVar[tuple[str, ...]] = ('step_end',)

    def on_publish(self, name: str, tensor: Tensor, task_id: int | None, mask: Tensor | None, rows: RowBuffer) -> None:
        if name == 'embeddings/obs':
            rows.write(RowKey(self.name, 'zeros', task_id), row_of((tensor == 0).float()))

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        weights = torch.cat([p.detach().flatten() for p in self.setup.model.parameters()])
        rows.write(RowKey(self.name, 'weights'), row_of(weights))

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        for name, tasks in table.of(self.name).items():
            for task_id, row in tasks.items():
                suffix = '' if task_id is None else f'_task{task_id}'
                yield f'{self.name}/{name}{suffix}', float(row[4] if name == 'weights' else row[1])

    def notes(self, table: RowTable) -> Iterator[tuple[str, str]]:
        yield 'largest_weight', 'seen'


def test_a_new_quantity_is_one_class() -> None:
    model = SmallModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=3, quantities=[*default_quantities(), LargestWeight()])
    measure(model, monitor, optimizer=optimizer)
    (record,) = finished(monitor)
    assert record.scalars['largest_weight/weights'] == max(p.max().item() for p in model.parameters())
    assert record.scalars['largest_weight/zeros_task2'] == 0
    assert record.notes['largest_weight'] == 'seen'
    assert 'norm/encoder/_total_norm' in record.scalars


class SeenSignals(Quantity):
    """Notes what it is given."""

    name: ClassVar[str] = 'seen_signals'

    def __init__(self) -> None:
        self.graphs: list[bool] = []

    def on_publish(self, name: str, tensor: Tensor, task_id: int | None, mask: Tensor | None, rows: RowBuffer) -> None:
        self.graphs += [tensor.requires_grad, (tensor * 2).requires_grad, torch.is_grad_enabled()]

    def on_publish_loss(self, name: str, value: Tensor | float, task_id: int | None, rows: RowBuffer) -> None:
        self.graphs.append(isinstance(value, Tensor) and value.requires_grad)


class MyLosses(TaskLosses):
    """Derives from a quantity that takes graphs, and does not."""

    name: ClassVar[str] = 'my_losses'

    def on_publish_loss(self, name: str, value: Tensor | float, task_id: int | None, rows: RowBuffer) -> None:
        assert isinstance(value, Tensor)
        super().on_publish_loss('my_' + name, value.numpy().max().item(), task_id, rows)


def test_a_quantity_that_derives_from_one_that_takes_graphs_is_given_none() -> None:
    quantities = [*default_quantities(), MyLosses()]
    monitor = Monitor(SmallModel(), {'monitor_norm_freq': 1}, num_tasks=3, quantities=quantities)
    with monitor.step(0) as step:
        step.publish_loss('loss', torch.ones(1, requires_grad=True) * 3, task_id=1)
        step.forward_end()
    (record,) = finished(monitor)
    assert record.scalars['my_loss_task1'] == record.scalars['loss_task1'] == 3.0
    assert not monitor.losses.total


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('transposed', [False, True])
def test_a_quantity_is_given_no_graph_and_none_is_kept(dtype: torch.dtype, transposed: bool) -> None:
    model, seen = SmallModel(), SeenSignals()
    monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=3, quantities=[*default_quantities(), seen])
    weight = torch.randn(4, 6, requires_grad=True)
    with monitor.step(0) as step:
        tensor = (weight * 3).to(dtype)
        # Not every layout is read in C.
        tensor = tensor.t().unsqueeze(0)[:, ::2] if transposed else tensor
        step.publish('mine', tensor, task_id=1)
        step.publish_loss('loss', tensor.float().sum(), task_id=1)
        kept = weakref.ref(tensor)
        total, numbers = tensor.float().sum().item(), tensor.detach().double()
        assert torch.is_grad_enabled()
        del tensor
        gc.collect()
        assert kept() is None
        step.forward_end()
    (record,) = finished(monitor)
    assert seen.graphs == [False] * 4
    assert record.scalars['mine_task1/mean'] == pytest.approx(numbers.mean().item(), rel=1e-6)
    assert record.scalars['loss_task1'] == pytest.approx(total, rel=1e-6)
    assert not monitor.losses.total


def test_only_the_quantities_that_were_asked_for() -> None:
    model = SmallModel()
    monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=3, quantities=[LargestWeight()])
    measure(model, monitor)
    names = set(finished(monitor)[0].scalars) - {'monitor/cost/ms_diagnosis'}
    assert {name.split('/')[0] for name in names} == {'largest_weight'}


def test_two_quantities_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match='same name'):
        Monitor(SmallModel(), {'monitor_norm_freq': 1}, num_tasks=3, quantities=[ParameterNorms(), ParameterNorms()])


class Failing(Quantity):
    """Fails wherever it is told to."""

    name: ClassVar[str] = 'failing'
    hook_points: ClassVar[tuple[str, ...]] = ('forward_end', 'backward_end', 'step_end')

    def __init__(self, where: str) -> None:
        self.where = where

    def _maybe(self, where: str) -> None:
        if self.where == where:
            raise FloatingPointError(f'on purpose in {where}')

    def on_publish(self, *args: Any) -> None:
        self._maybe('on_publish')

    def on_publish_loss(self, *args: Any) -> None:
        self._maybe('on_publish_loss')

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        self._maybe('measure')
        if self.where == 'row':
            rows.write(RowKey(self.name, 'bad'), np.zeros(3))

    def finish(self, rows: RowBuffer) -> None:
        self._maybe('finish')

    def unpack(self, cells: Any) -> Iterator[Any]:
        self._maybe('unpack')
        if self.where == 'unpacked row':
            yield RowKey(self.name, 'bad'), np.zeros(3)

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        self._maybe('derive')
        yield 'failing/fine', 1.0

    def notes(self, table: RowTable) -> Iterator[tuple[str, str]]:
        self._maybe('notes')
        yield from ()


@pytest.mark.parametrize(
    'where',
    ['on_publish', 'on_publish_loss', 'measure', 'finish', 'unpack', 'derive', 'notes', 'row', 'unpacked row'],
)
def test_a_quantity_that_fails_is_said_once_and_counted(where: str, caplog: pytest.LogCaptureFixture) -> None:
    model = SmallModel()
    monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=3, quantities=[Failing(where), *default_quantities()])
    with caplog.at_level(logging.WARNING, 'ding_normmon'):
        measured = [measure(model, monitor, iteration) for iteration in range(3)]
        records = finished(monitor)
    said = [record.getMessage() for record in caplog.records if 'failing failed at' in record.getMessage()]
    assert len(said) == 1
    assert monitor.losses.total['quantity_failing'] >= 3
    assert sum(record.scalars.get('monitor/lost/quantity_failing', 0) for record in records) >= 2
    for record, one in zip(records, measured, strict=True):
        scalars = {name: value for name, value in record.scalars.items() if 'failing' not in name}
        assert_same(scalars, reference(model, one))


def test_what_failed_does_not_show_the_figures_of_an_earlier_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SmallModel()
    monitor = small_monitor(model)
    measure(model, monitor, 0)

    def fail(*args: Any) -> None:
        raise MemoryError

    for quantity in monitor.quantities:
        if isinstance(quantity, (ParameterNorms, GradientNorms)):
            monkeypatch.setattr(quantity, 'measure', fail)
    measure(model, monitor, 1)
    first, second = finished(monitor)
    assert 'norm/encoder/_total_norm' in first.scalars
    assert not [name for name in second.scalars if name.startswith('grad/') or name.endswith('_total_norm')]
    assert 'logits/value/mean' in second.scalars


# -- mistakes and healthy oddities -----------------------------------------------------------------------------------


def publish_and_end(monitor: Monitor, *args: Any, iteration: int = 0, **kwargs: Any) -> None:
    """One step in which one thing is published."""
    with monitor.step(iteration) as step:
        step.publish(*args, **kwargs)
        step.forward_end()
        step.backward_end()


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    'integers': (
        {'tensor': torch.zeros(2, 3, dtype=torch.int64), 'task_id': 0},
        'floating-point tensor, got torch.int64',
    ),
    'booleans': ({'tensor': torch.zeros(2, 3) > 0, 'task_id': 0}, 'floating-point tensor, got torch.bool'),
    'an array': ({'tensor': np.zeros((2, 3)), 'task_id': 0}, 'floating-point tensor, got ndarray'),
    'task 3 of 3': ({'tensor': torch.zeros(2, 3), 'task_id': 3}, 'unknown task id 3; this rank trains'),
    'task -1': ({'tensor': torch.zeros(2, 3), 'task_id': -1}, 'unknown task id -1'),
    'a name as task': ({'tensor': torch.zeros(2, 3), 'task_id': 'pong'}, "unknown task id 'pong'"),
    'task 1.0': ({'tensor': torch.zeros(2, 3), 'task_id': 1.0}, 'unknown task id 1.0'),
    'longer mask': (
        {'tensor': torch.zeros(2, 3, 4), 'task_id': 0, 'mask': torch.ones(2, 5)},
        r'mask of shape \(2, 5\)',
    ),
    'wider mask': ({'tensor': torch.zeros(2, 3, 4), 'task_id': 0, 'mask': torch.ones(3, 3)}, r'mask of shape \(3, 3\)'),
    'flat mask': ({'tensor': torch.zeros(2, 3, 4), 'task_id': 0, 'mask': torch.ones(6)}, r'must have shape \(B, T\)'),
    'mask of lists': ({'tensor': torch.zeros(2, 3), 'task_id': 0, 'mask': [[1, 1, 1]] * 2}, 'a mask that is a tensor'),
    'another device': ({'tensor': torch.zeros(2, 3, device='meta'), 'task_id': 0}, 'the tensor is on meta'),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_raises_in_the_first_due_step_before_backward(mistake: str) -> None:
    kwargs, complaint = MISTAKES[mistake]
    monitor = small_monitor(SmallModel(), frequency=2)
    with monitor.step(1):
        pass
    reached = []
    with pytest.raises(SignalError, match=rf'logits/odd: .*{complaint}'), monitor.step(2) as step:  # noqa: PT012
        step.publish('logits/odd', **kwargs)
        reached.append('published')
        step.forward_end()
        reached.append('backward')
    assert reached == ['published']


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_later_mistake_is_left_out_and_counted(mistake: str, caplog: pytest.LogCaptureFixture) -> None:
    kwargs, _ = MISTAKES[mistake]
    model = SmallModel()
    monitor = small_monitor(model)
    measure(model, monitor, 0)
    with caplog.at_level(logging.WARNING, 'ding_normmon'):
        for iteration in (1, 2):
            publish_and_end(monitor, 'logits/odd', iteration=iteration, **kwargs)
        records = finished(monitor)
    assert len([record for record in caplog.records if 'logits/odd' in record.getMessage()]) == 1
    assert sum(record.scalars.get('monitor/lost/mistake', 0) for record in records) == 2
    assert not [name for record in records for name in record.scalars if 'logits/odd' in name]
    assert 'norm/encoder/_total_norm' in records[2].scalars


def test_all_mistakes_of_the_first_step_are_named() -> None:
    monitor = small_monitor(SmallModel())
    with pytest.raises(SignalError, match=r'first.*; second') as caught, monitor.step(0) as step:  # noqa: PT012
        step.publish('first', torch.zeros(2, dtype=torch.int64), task_id=0)
        step.publish('second', torch.zeros(2), task_id=9)
        step.forward_end()
    assert 'second' in str(caught.value)


def test_the_same_signal_twice_in_one_forward_pass() -> None:
    monitor = small_monitor(SmallModel())
    twice = 'logits/value: published twice for task 1'
    with pytest.raises(SignalError, match=twice), monitor.step(0) as step:  # noqa: PT012
        step.publish('logits/value', torch.zeros(2), task_id=1)
        step.publish('logits/value', torch.zeros(2), task_id=1)
        step.forward_end()


def test_a_loss_may_be_named_like_a_signal() -> None:
    monitor = small_monitor(SmallModel())
    with monitor.step(0) as step:
        step.publish('value', torch.zeros(2), task_id=1)
        step.publish_loss('value', 2.0, task_id=1)
        step.forward_end()
        step.backward_end()
    scalars = finished(monitor)[0].scalars
    assert scalars['value_task1'] == 2
    assert scalars['value_task1/mean'] == 0


@pytest.mark.parametrize('task_id', [np.int64(1), np.int32(1), torch.tensor(1)])
def test_task_ids_may_be_any_integer(task_id: Any) -> None:
    monitor = small_monitor(SmallModel())
    publish_and_end(monitor, 'logits/value', torch.ones(2), task_id=task_id)
    assert finished(monitor)[0].scalars['logits/value_task1/mean'] == 1


def test_a_mistake_without_a_forward_end_is_counted() -> None:
    monitor = small_monitor(SmallModel())
    with monitor.step(0) as step:
        step.publish('first', torch.zeros(2, dtype=torch.int64), task_id=0)
        step.backward_end()
    assert finished(monitor)[0].scalars['monitor/lost/mistake'] == 1


@pytest.mark.parametrize(
    'kwargs',
    [
        {'tensor': torch.zeros(0, 3), 'task_id': 0},
        {'tensor': torch.zeros(2, 3, 4), 'task_id': 0, 'mask': torch.zeros(2, 3)},
        {'tensor': torch.zeros(0, 6, 4), 'task_id': 0, 'mask': torch.zeros(0, 3)},
        {'tensor': None, 'task_id': 0},
    ],
    ids=['empty', 'no valid step', 'empty with mask', 'not produced'],
)
@pytest.mark.parametrize('name', ['logits/value', 'x_token'])
def test_what_happens_in_healthy_runs_does_not_raise(name: str, kwargs: dict[str, Any]) -> None:
    monitor = small_monitor(SmallModel())
    with monitor.step(0) as step:
        step.publish(name, **kwargs)
        step.publish(name, torch.ones(2, 3, 4), task_id=1)
        step.forward_end()
        step.backward_end()
    scalars = finished(monitor)[0].scalars
    family = 'norm/x_token' if name == 'x_token' else name
    assert f'{family}_task0/mean' not in scalars
    assert scalars[f'{family}/mean'] == scalars[f'{family}_task1/mean']
    assert not monitor.losses.total


def test_a_signal_may_appear_late() -> None:
    model = SmallModel()
    monitor = small_monitor(model)
    measure(model, monitor, 0)
    publish_and_end(monitor, 'late', torch.ones(2), task_id=0, iteration=1)
    first, second = finished(monitor)
    assert 'late/mean' not in first.scalars
    assert second.scalars['late_task0/mean'] == 1
    assert not monitor.losses.total


# -- set-up ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('kwargs', 'complaint'),
    [
        ({'num_tasks': 3, 'task_ids': [0, 3]}, 'task id 3 is out of range; with 3 tasks the nearest is 2'),
        ({'num_tasks': 3, 'task_ids': [-1]}, 'task id -1 is out of range; with 3 tasks the nearest is 0'),
        ({'num_tasks': 3, 'task_ids': [1, 1]}, 'are not unique'),
        ({'task_ids': [0]}, 'need num_tasks'),
    ],
)
def test_task_ids_that_cannot_be(kwargs: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        Monitor(SmallModel(), {'monitor_norm_freq': 1}, **kwargs)


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(ConfigurationError, match='ReLU has no parameters'):
        Monitor(nn.ReLU(), {'monitor_norm_freq': 1})


def test_a_group_that_names_no_module_is_refused() -> None:
    with pytest.raises(GroupError, match='encodr'):
        small_monitor(SmallModel(), module_groups={'mine': 'tokenizer.encodr'})


# -- destinations ----------------------------------------------------------------------------------------------------


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
    assert sum(amount for reason, amount in monitor.losses.total.items() if 'Broken' in reason) >= 3


def test_close_publishes_what_is_under_way() -> None:
    model = SmallModel()
    recorder = Recorder()
    monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=3, destinations=[recorder])
    for iteration in range(20):
        measure(model, monitor, iteration)
    monitor.close()
    assert [record.iteration for record in recorder.records] == list(range(20))


# -- inert -----------------------------------------------------------------------------------------------------------


def train(frequency: int | None, iterations: int = 6) -> tuple[Any, ...]:
    """Train from the same seed, monitored or not; everything that training leaves behind is the value."""
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    model = SmallModel()
    model.transformer.eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    monitor = None if frequency is None else small_monitor(model, frequency=frequency, detail='parameter')
    losses = []
    for iteration in range(iterations):
        batches = make_batches()
        if monitor is None:
            losses.append(learn(model, batches, INERT, optimizer, clip=1.0).losses)
        else:
            losses.append(measure(model, monitor, iteration, batches=batches, optimizer=optimizer, clip=1.0).losses)
        losses.append((torch.randn(3), random.random(), np.random.rand()))
    if monitor is not None:
        assert len(finished(monitor)) == (-(-iterations // frequency) if frequency else 0)
    state = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    flags = [module.training for module in model.modules()], [p.requires_grad for p in model.parameters()]
    return state, losses, flags, torch.get_rng_state(), random.getstate(), np.random.get_state()


def same(first: Any, second: Any) -> bool:
    """Equal to the last bit."""
    if isinstance(first, Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, np.ndarray):
        return np.array_equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


@pytest.mark.parametrize('frequency', [1, 2, 0])
def test_monitored_training_is_training(frequency: int) -> None:
    for monitored, plain in zip(train(frequency), train(None), strict=True):
        assert same(monitored, plain)


def test_nothing_of_the_step_stays_alive() -> None:
    model = SmallModel()
    monitor = small_monitor(model, detail='parameter')
    measure(model, monitor, 0)
    seen = []
    gc.collect()
    gc.disable()
    try:
        with monitor.step(1) as step:
            for batch in make_batches():
                signals = model(batch)
                for name, tensor in signals.items():
                    step.publish(name, tensor, task_id=batch.task_id, mask=batch.mask)
                loss = sum(tensor.sum() for tensor in signals.values())
                step.publish_loss('loss', loss, task_id=batch.task_id)
                seen += [weakref.ref(tensor) for tensor in (*signals.values(), loss, batch.mask)]
            step.forward_end({0: loss})
            loss.backward()
            step.backward_end()
            step.step_end()
        seen += [weakref.ref(p.grad) for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        del signals, tensor, loss, batch
        alive = [reference() for reference in seen if reference() is not None]
    finally:
        gc.enable()
    assert len(seen) > 30
    assert alive == []
    monitor.close()


def test_nothing_of_a_step_that_failed_stays_alive() -> None:
    monitor = small_monitor(SmallModel())
    tensor = torch.zeros(2, dtype=torch.int64)
    seen = weakref.ref(tensor)
    with pytest.raises(SignalError), monitor.step(0) as step:  # noqa: PT012
        step.publish('odd', tensor, task_id=0)
        step.forward_end({0: tensor})
    del tensor
    gc.collect()
    assert seen() is None


class Operations(TorchDispatchMode):
    """Counts the operations on tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def off_steps(monitor: Monitor, tensor: Tensor, mask: Tensor, first: int, count: int) -> None:
    """Steps that are not due, as a policy fires them."""
    for iteration in range(first, first + count):
        step = monitor.begin_step(iteration)
        step.publish('logits/value', tensor, task_id=0, mask=mask)
        step.publish_loss('loss', tensor, task_id=0)
        step.forward_end(None)
        step.backward_end()
        step.step_end()
        monitor.end_step(step)


def test_an_off_step_does_no_tensor_operation() -> None:
    model = SmallModel()
    monitor = small_monitor(model, frequency=100_000)
    measure(model, monitor, 0)
    operations = Operations()
    with operations:
        off_steps(monitor, torch.empty(0), torch.empty(0), 1, 100)
    monitor.close()
    assert [name for name in operations.names if 'empty' not in name] == []


@pytest.mark.parametrize('frequency', [100_000, 0])
def test_a_thousand_off_steps_allocate_nothing(frequency: int) -> None:
    model = SmallModel()
    monitor = small_monitor(model, frequency=frequency)
    measure(model, monitor, 0)
    tensor, mask = torch.ones(2, 3), torch.ones(2, 3)
    off_steps(monitor, tensor, mask, 1, 50)
    # What the background still allocates for the record of iteration 0 is not the off steps'.
    deadline = time.monotonic() + 10
    while frequency and not monitor.records and time.monotonic() < deadline:
        time.sleep(0.01)
    gc.collect()
    tracemalloc.start()
    try:
        off_steps(monitor, tensor, mask, 1000, 10)
        before, _ = tracemalloc.get_traced_memory()
        off_steps(monitor, tensor, mask, 2000, 1000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    monitor.close()
    assert after - before < 512  # one integer of the loop may be alive, and what tracemalloc itself keeps


def test_the_row_buffers_are_small_and_their_size_is_told() -> None:
    model = SmallModel()
    monitor = small_monitor(model)
    measure(model, monitor)
    scalars = finished(monitor)[0].scalars
    assert 0 < scalars['monitor/cost/bytes'] < 64 * 1024 * 3
    assert scalars['monitor/cost/ms'] > 0
    assert scalars['monitor/cost/messages'] == 0


# -- results ---------------------------------------------------------------------------------------------------------


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


# -- the path of accelerators, forced on a CPU -----------------------------------------------------------------------


@pytest.fixture
def as_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row buffers that behave as on an accelerator: rows stay on the device and travel in one copy."""
    allocate = RowBuffer._allocate

    def not_on_host(self: RowBuffer, cells: int, capacity: int) -> None:
        self.on_host = False
        allocate(self, cells, max(capacity, self.first_capacity))  # type: ignore[attr-defined]

    monkeypatch.setattr(RowBuffer, 'first_capacity', 4, raising=False)
    monkeypatch.setattr(RowBuffer, '_allocate', not_on_host)


@pytest.mark.usefixtures('as_accelerator')
@pytest.mark.parametrize('capacity', [4, 512])
def test_every_metric_on_the_path_of_accelerators(capacity: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RowBuffer, 'first_capacity', capacity, raising=False)
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
    monkeypatch.setattr(RowBuffer, 'first_capacity', 512, raising=False)
    model = SmallModel()
    monitor = small_monitor(model)
    for slot in monitor._buffer._free:
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
    assert monitor.losses.total['device_copy'] == 4
    for record in records:
        scalars = {name: value for name, value in record.scalars.items() if 'monitor/lost' not in name}
        assert_same(scalars, reference(model, measured[record.iteration]))
