"""Updates in known situations; against copied weights of the real policy in tests/unizero."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ding_normmon import Monitor
from ding_normmon.metrics import GradientConflict, Updates
from tests.metrics.shared_model import Shared, loss_of


@pytest.mark.parametrize('budget', [8 * 2**20, 1], ids=['copied', 'sketched'])
def test_plain_gradient_descent_on_one_task_serves_it_and_its_opposite_not(budget: int) -> None:
    model = Shared()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    config = {'monitor_norm_freq': 1, 'sketch_size': 128, 'memory_budget': budget}
    monitor = Monitor(model, config, num_tasks=2, metrics=[GradientConflict(), Updates()])
    with monitor.step(0) as step:
        loss = loss_of(model, 0, 5)
        step.forward_end({0: loss, 1: -0.1 * loss_of(model, 0, 5)})
        loss.backward()
        step.backward_end()
        optimizer.step()
        step.step_end()
    monitor.close()
    scalars = monitor.take_records()[0].scalars
    assert scalars['update/encoder_task0/cosine'] == pytest.approx(1, abs=1e-4)
    assert scalars['update/encoder_task1/cosine'] == pytest.approx(-1, abs=1e-4)


def test_a_weight_that_moved_before_the_last_of_several_backward_passes_has_moved() -> None:
    model = nn.ModuleDict({'actor': nn.Linear(3, 2), 'critic': nn.Linear(3, 1)})
    monitor = Monitor(model, {'monitor_norm_freq': 1}, metrics=[Updates()])
    with monitor.step(0) as step:
        step.forward_end()
        for part in model.values():
            step.backward_end(parameters={id(parameter) for parameter in part.parameters()})
            with torch.no_grad():
                for parameter in part.parameters():
                    parameter.mul_(1.1)
        step.step_end()
    monitor.close()
    scalars = monitor.take_records()[0].scalars
    assert scalars['update/other/relative'] == pytest.approx(0.1, rel=1e-4)


def test_a_step_that_was_not_taken_moved_nothing() -> None:
    model = Shared()
    monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=2, metrics=[GradientConflict(), Updates()])
    with monitor.step(0) as step:
        step.forward_end({task: loss_of(model, task) for task in range(2)})
        step.backward_end()
        step.step_end()
    monitor.close()
    scalars = monitor.take_records()[0].scalars
    assert scalars['update/encoder/relative'] == 0
    assert not [name for name in scalars if name.startswith('update') and name.endswith('cosine')]


def test_a_policy_without_step_end_has_no_updates() -> None:
    model = Shared()
    monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=2, metrics=[Updates()])
    for iteration in range(2):
        with monitor.step(iteration) as step:
            step.forward_end()
            step.backward_end()
    monitor.close()
    assert not [name for r in monitor.take_records() for name in r.scalars if name.startswith('update')]
    assert not monitor.lost_data.total


def test_weights_that_break_are_told() -> None:
    model = Shared()
    monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=4, metrics=[Updates()])
    with monitor.step(0) as step:
        step.forward_end()
        step.backward_end()
        with torch.no_grad():
            model.encoder.weight[0, 0] = float('nan')
        step.step_end()
    monitor.close()
    scalars = monitor.take_records()[0].scalars
    assert scalars['monitor/nonfinite/update/encoder'] == 1
    assert 'update/encoder/relative' not in scalars
    assert scalars['update/head_value_task0/relative'] == 0


def test_what_is_kept_is_declared_and_within_the_budget() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Linear(300, 300)
            self.transformer = nn.Linear(100, 100)

    metric = Updates()
    budget = 4 * (100 * 100 + 100) + 8 * 4096
    monitor = Monitor(
        Wide(), {'monitor_norm_freq': 1, 'memory_budget': budget}, num_tasks=2, metrics=[metric]
    )
    assert sum(copy.nbytes for copy in metric._copies) == 4 * (100 * 100 + 100)
    assert metric.state_bytes() >= budget
    monitor.close()


@pytest.mark.parametrize('budget', [8 * 2**20, 1], ids=['copied', 'sketched'])
def test_weights_in_float64_move_as_far_as_they_do(budget: int) -> None:
    model = Shared().double()
    config = {'monitor_norm_freq': 1, 'memory_budget': budget}
    monitor = Monitor(model, config, num_tasks=2, metrics=[Updates()])
    with monitor.step(0) as step:
        step.forward_end()
        step.backward_end()
        with torch.no_grad():
            model.encoder.weight.mul_(1.5)
            model.encoder.bias.mul_(1.5)
        step.step_end()
    monitor.close()
    scalars = monitor.take_records()[0].scalars
    assert scalars['update/encoder/relative'] == pytest.approx(0.5, rel=1e-6)
