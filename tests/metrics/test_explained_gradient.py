"""Conflict is measured where the losses per task are what the step trains with, and switched off where they are not."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from ding_normmon import Monitor
from ding_normmon.metrics.gradient_conflict import GradientConflict

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.encoder = nn.Linear(6, 5)
        self.head_value = nn.ModuleList(nn.Linear(5, 1) for _ in range(2))

    def losses(self) -> dict[int, torch.Tensor]:
        return {
            task: head(torch.tanh(self.encoder(X + task))).square().mean() for task, head in enumerate(self.head_value)
        }


def monitored(model: nn.Module) -> Monitor:
    return Monitor(model, {'monitor_norm_freq': 1}, num_tasks=2, metrics=[GradientConflict()])


def conflict_names(monitor: Monitor) -> list[set[str]]:
    monitor.close()
    return [
        {name for name in record.scalars if name.startswith('conflict/encoder/')} for record in monitor.take_records()
    ]


def test_losses_that_explain_the_gradient_are_measured() -> None:
    model = Shared()
    monitor = monitored(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    for iteration in range(3):
        with monitor.step(iteration) as step:
            losses = model.losses()
            step.forward_end(losses)
            optimizer.zero_grad()  # only now: the last step's gradient is still there at forward_end
            (1024.0 * sum(losses.values())).backward()  # a loss scaler
            step.backward_end()
            optimizer.step()
    assert all(names for names in conflict_names(monitor))


def test_an_accumulated_gradient_is_measured() -> None:
    model = Shared()
    monitor = monitored(model)
    sum(model.losses().values()).backward()  # an earlier part
    with monitor.step(0) as step:
        losses = {task: 3 * loss for task, loss in model.losses().items()}
        step.forward_end(losses)
        sum(losses.values()).backward()
        step.backward_end()
    assert all(names for names in conflict_names(monitor))


@pytest.mark.parametrize('kind', ['a second loss', 'a step between', 'another sign'])
def test_losses_that_do_not_are_refused_with_the_reason(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    model = Shared()
    monitor = monitored(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with caplog.at_level(logging.WARNING):
        for iteration in range(3):
            with monitor.step(iteration) as step:
                optimizer.zero_grad()
                losses = model.losses()
                step.forward_end(losses)
                if kind == 'another sign':
                    (-sum(losses.values())).backward()
                else:
                    sum(losses.values()).backward()
                if kind == 'a step between':
                    optimizer.step()
                    optimizer.zero_grad()
                if kind != 'another sign':
                    # Made of what the first backward pass has left behind.
                    model.encoder(X).exp().mean().backward()
                step.backward_end()
    assert not any(conflict_names(monitor))
    reasons = [record.getMessage() for record in caplog.records if 'at forward_end explain' in record.getMessage()]
    assert len(reasons) == 1
    assert 'switched off' in reasons[0]
