"""Models in which modules or parameters are replaced while they are trained: what is told is of what is there."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ding_normmon import Monitor
from ding_normmon.core import backward_passes
from tests.models import SmallModel, assert_same, finished, learn, make_batches, reference, small_monitor
from tests.monitor.steps import measure


def assigned(model: SmallModel) -> None:
    state = {name: 2 * value for name, value in copy.deepcopy(model.state_dict()).items()}
    model.load_state_dict(state, assign=True)


def one_weight(model: SmallModel) -> None:
    head: Any = model.head_value_multi_task[1]
    name, parameter = next(iter(head.named_parameters()))
    *path, last = name.split('.')
    setattr(head.get_submodule('.'.join(path)), last, nn.Parameter(3 * parameter.detach()))


def one_head(model: SmallModel) -> None:
    model.head_policy_multi_task[2] = copy.deepcopy(model.head_policy_multi_task[2])
    with torch.no_grad():
        next(model.head_policy_multi_task[2].parameters()).mul_(5.0)


def rewritten(model: SmallModel) -> None:
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.detach() * 0.5)


CHANGES = [assigned, one_weight, one_head, rewritten]


@pytest.mark.parametrize('change', CHANGES)
def test_every_metric_after_a_change(change: Callable[[SmallModel], None], caplog: pytest.LogCaptureFixture) -> None:
    model = SmallModel()
    monitor = small_monitor(model)
    expected = []
    with caplog.at_level(logging.WARNING):
        for iteration in range(5):
            if iteration == 2:
                change(model)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            expected.append(reference(model, measure(model, monitor, iteration, optimizer=optimizer)))
    records = finished(monitor)
    assert [record.iteration for record in records] == list(range(5))
    for record, metrics in zip(records, expected, strict=True):
        assert_same(record.scalars, metrics)
    notes = {record.iteration: record.notes['groups'] for record in records if 'groups' in record.notes}
    assert notes == {2: 'modules or parameters were replaced or resized; groups found again at iteration 2'}
    assert sum('groups found again' in line.getMessage() for line in caplog.records) == 1
    assert not monitor.lost_data.total


def test_a_layer_more_and_a_layer_less() -> None:
    model = nn.ModuleDict({'encoder': nn.Sequential(nn.Linear(2, 2)), 'head_value': nn.Linear(2, 1)})
    monitor = Monitor(model, {'monitor_norm_freq': 1})
    expected = []
    for iteration in range(6):
        if iteration == 2:
            model['encoder'].append(nn.Linear(2, 2))
        if iteration == 4:
            del model['encoder'][0]
        with monitor.step(iteration) as step:
            step.forward_end()
            model['head_value'](model['encoder'](torch.ones(3, 2))).sum().backward()
            step.backward_end()
        weights = torch.cat([parameter.detach().double().flatten() for parameter in model['encoder'].parameters()])
        expected.append(weights.norm().item())
        model.zero_grad()
    records = finished(monitor)
    assert [record.scalars['norm/encoder/_total_norm'] for record in records] == pytest.approx(expected, rel=1e-6)
    trainable = [record.scalars['parameters/model/trainable'] for record in records]
    assert trainable == [9.0, 9.0, 15.0, 15.0, 9.0, 9.0]


def test_what_was_none_and_is_a_parameter_now(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(2, 2, bias=False)
    monitor = Monitor(model, {'monitor_norm_freq': 1})
    for iteration in range(3):
        if iteration == 1:
            model.bias = nn.Parameter(torch.full((2,), 3.0))
        if iteration == 2:
            model.bias = None
        with monitor.step(iteration) as step:
            step.forward_end()
    records = finished(monitor)
    assert [record.scalars['parameters/model/trainable'] for record in records] == [4.0, 6.0, 4.0]
    # Every change has its note; the log is warned once.
    assert [sorted(record.notes) for record in records] == [[], ['groups'], ['groups']]
    warned = [line for line in caplog.records if line.levelno == logging.WARNING]
    assert sum('groups found again' in line.getMessage() for line in warned) == 1


def test_a_group_of_the_users_that_is_gone_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.ModuleDict({'encoder': nn.Linear(2, 2), 'adapter': nn.Linear(2, 2)})
    monitor = Monitor(model, {'monitor_norm_freq': 1, 'module_groups': {'mine': 'adapter'}})

    def step_of(iteration: int) -> None:
        with monitor.step(iteration) as step:
            step.forward_end()
            sum(parameter.sum() for parameter in model.parameters()).backward()
            step.backward_end()

    adapter = model['adapter']
    for iteration in range(6):
        if iteration == 2:
            del model['adapter']
        if iteration == 4:
            model['adapter'] = adapter
        step_of(iteration)
    records = finished(monitor)
    # Nothing is told of a model that is not the one whose groups are known.
    assert [record.iteration for record in records] == [0, 1, 4, 5]
    assert monitor.lost_data.total == {'groups': 2}
    said = [line.getMessage() for line in caplog.records if 'cannot be measured any more' in line.getMessage()]
    assert len(said) == 1
    assert "'adapter' names no module" in said[0]


def test_in_the_middle_of_a_cycle_of_accumulation() -> None:
    model = SmallModel()
    monitor = small_monitor(model, frequency=4)
    for iteration in range(6):
        if iteration == 5:
            one_head(model)
        with monitor.step(iteration) as step:
            measured = learn(model, make_batches(), step, backward=iteration % 2 == 1)
        if iteration == 1:
            model.zero_grad()
    records = finished(monitor)
    assert [record.iteration for record in records] == [0, 1, 4, 5]
    assert not monitor.lost_data.total
    gradients = {name: value for name, value in reference(model, measured).items() if name.startswith('grad/')}
    assert {name: records[3].scalars[name] for name in gradients} == pytest.approx(gradients, rel=1e-6)


@pytest.mark.parametrize('threads', [False, True])
def test_in_a_training_loop(threads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # As in a process in which another thread has trained something.
    monkeypatch.setattr(backward_passes._Threads, 'several', threads)
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = []
    with Monitor(model, {'monitor_norm_freq': 1}, optimizer=optimizer) as monitor:
        for iteration in range(5):
            optimizer.zero_grad()
            model(torch.ones(4, 2)).sum().backward()
            gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
            expected.append(torch.cat([gradient.double().flatten() for gradient in gradients]).norm().item())
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            if iteration == 1:
                # The next learner step has begun, but is one of the new weights.
                for layer in (model[0], model[1]):
                    layer.weight = nn.Parameter(2 * layer.weight.detach())  # type: ignore[operator]
                    layer.bias = nn.Parameter(layer.bias.detach().clone())  # type: ignore[operator]
                optimizer.param_groups[0]['params'] = list(model.parameters())
    records = {record.iteration: record.scalars for record in monitor.take_records()}
    told = {iteration: scalars.get('grad/model/_total_norm') for iteration, scalars in records.items()}
    assert sorted(records) == [0, 1, 2, 3, 4]
    for iteration in range(5):
        assert told[iteration] == pytest.approx(expected[iteration], rel=1e-6)
        coefficient = min(1.0, 0.5 / expected[iteration])
        assert records[iteration]['clip/model/coefficient'] == pytest.approx(coefficient, rel=1e-4)


def grown(model: nn.ModuleDict, optimizer: torch.optim.Optimizer) -> None:
    """Add rows to an embedding, as when words are added to a vocabulary."""
    weight = model['encoder'].weight
    weight.data = torch.cat([weight.detach(), torch.full((3, 4), 2.0)])
    weight.grad = None


def headed(model: nn.ModuleDict, optimizer: torch.optim.Optimizer) -> None:
    """Give a head more outputs, and leave the gradient of the earlier one where it is."""
    model['head'] = nn.Linear(4, 5)
    optimizer.param_groups[0]['params'] = list(model.parameters())


@pytest.mark.parametrize('clips', [True, False])
@pytest.mark.parametrize('change', [grown, headed])
def test_a_layer_grows_between_the_steps_of_a_loop(change: Callable[..., None], clips: bool) -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({'encoder': nn.Embedding(5, 4), 'head': nn.Linear(4, 1)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    config = {'monitor_norm_freq': 1, 'module_groups': {'encoder': 'encoder', 'head': 'head'}}
    right = []
    with Monitor(model, config, optimizer=optimizer) as monitor:
        for iteration in range(6):
            if iteration == 3:
                change(model, optimizer)
            parts = {'model': model, 'encoder': model['encoder'], 'head': model['head']}
            expected = {f'norm/{key}/_total_norm': length(part.parameters()) for key, part in parts.items()}
            optimizer.zero_grad()
            model['head'](model['encoder'](torch.arange(len(model['encoder'].weight)))).square().sum().backward()
            gradients = {key: [p.grad for p in part.parameters()] for key, part in parts.items()}
            right.append({**expected, **{f'grad/{key}/_total_norm': length(gradients[key]) for key in parts}})
            if clips:
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
    records = monitor.take_records()
    assert [record.iteration for record in records] == [*range(6)]
    for record, figures in zip(records, right, strict=True):
        assert {name: record.scalars[name] for name in figures} == pytest.approx(figures, rel=1e-6)
    assert not monitor.lost_data.total


def length(tensors: Any) -> float:
    return float(torch.cat([tensor.detach().double().flatten() for tensor in tensors]).norm())
