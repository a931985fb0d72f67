"""Norms of groups and of single parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ding_normmon import Monitor
from tests.models import SmallModel, assert_same, finished, reference, small_monitor
from tests.monitor.steps import measure


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
    assert not monitor.lost_data.total


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


def test_among_the_largest_an_absent_gradient_is_none_that_is_zero() -> None:
    model = nn.Linear(2, 2)
    monitor = Monitor(model, {'monitor_norm_freq': 1, 'detail': 'parameter', 'top_k': 1})
    with monitor.step(0) as step:
        step.forward_end()
        model.bias.grad = torch.zeros(2)
        step.backward_end()
    scalars = finished(monitor)[0].scalars
    assert {name for name in scalars if name.startswith('grad/other/')} == {'grad/other/_total_norm', 'grad/other/bias'}
    assert scalars['grad/other/bias'] == 0.0
