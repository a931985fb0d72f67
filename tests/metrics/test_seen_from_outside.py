"""Figures that nobody publishes: losses, inputs and learning rates of a plain loop, against float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ding_normmon import Monitor
from ding_normmon.core.record import Record


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(5, 7)
        self.head_value = nn.Linear(7, 2)

    def forward(self, batch: dict[str, torch.Tensor], scale: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head_value(torch.tanh(self.encoder(batch['obs']))) * scale
        return out


def trained(steps: int = 4) -> tuple[list[Record], list[dict[str, float]]]:
    """Train with two losses a step and two learning rates; return records and what they should hold."""
    torch.manual_seed(0)
    model = Model()
    groups = [
        {'params': list(model.encoder.parameters()), 'lr': 1e-3},
        {'params': [model.head_value.weight], 'lr': 3e-3},
        {'params': [model.head_value.bias], 'lr': 2e-3},
    ]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    expected = []
    with Monitor(model, {'monitor_norm_freq': 1}, optimizer=optimizer) as monitor:
        for step in range(steps):
            obs, scale = torch.randn(6 + step, 5) * 3 + 1, torch.full((6 + step, 1), 0.5)
            model.eval()
            with torch.no_grad():
                # Neither this one nor the second call counts.
                model({'obs': obs * 100}, scale)
            model.train()
            optimizer.zero_grad()
            first = model({'obs': obs}, scale=scale).square().mean()
            second = model({'obs': obs * 2}, scale=scale).abs().mean()
            first.backward()
            second.backward()
            optimizer.step()
            wide = obs.double()
            expected.append(
                {
                    'inputs/0/obs/mean': float(wide.mean()),
                    'inputs/0/obs/std': float(wide.std()),
                    'inputs/0/obs/max': float(wide.max()),
                    'inputs/0/obs/min': float(wide.min()),
                    'inputs/0/obs/features': 5.0,
                    'inputs/scale/features': 1.0,
                    'inputs/batch_size': 6.0 + step,
                    'inputs/distinct': 1.0,
                    'mode/input_bits': 32.0,
                    'mode/output_bits': 32.0,
                    'loss/backward': first.item(),
                    'loss/backward_1': second.item(),
                    'learning_rate/encoder': 1e-3 * 0.5**step,
                    'learning_rate/head_value': 3e-3 * 0.5**step,
                    'learning_rate/model': 3e-3 * 0.5**step,
                    'step/optimizer_steps': 1.0,
                }
            )
            schedule.step()
    return monitor.take_records(), expected


def test_every_figure_is_that_of_the_loop() -> None:
    records, expected = trained()
    assert [record.iteration for record in records] == [0, 1, 2, 3]
    for record, figures in zip(records, expected, strict=True):
        for name, value in figures.items():
            assert record.scalars[name] == pytest.approx(value, rel=1e-6), name
        seen = {name for name in record.scalars if name.startswith(('inputs/', 'loss/', 'learning_rate/'))}
        assert {name for name in seen if '/scale/' not in name} - set(figures) == set()
    assert len({record.scalars['monitor/fingerprint/inputs'] for record in records}) == len(records)


@pytest.mark.parametrize(('samples', 'different'), [(1, 1), (7, 3), (16, 16), (50, 2), (64, 1)])
def test_different_samples_of_a_batch_are_counted(samples: int, different: int) -> None:
    model = nn.Linear(5, 2)
    kinds = torch.randn(different, 5)
    taken = range(0, samples, -(-samples // 16))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    # It is not contiguous.
    batch = kinds[[place % different for place in range(samples)]].t().contiguous().t()
    with Monitor(model, {'monitor_norm_freq': 1}, optimizer=optimizer) as monitor:
        model(batch).sum().backward()
        optimizer.step()
    (record,) = monitor.take_records()
    expected = len({tuple(batch[place].tolist()) for place in taken}) / len(taken)
    assert record.scalars['inputs/distinct'] == expected


@pytest.mark.parametrize('first', [True, False])
def test_the_losses_are_those_of_the_model_not_of_another_one(first: bool) -> None:
    """Members of a population train in turns."""
    torch.manual_seed(0)
    model, other = nn.Linear(3, 1), nn.Linear(3, 1)
    optimizers = {part: torch.optim.SGD(part.parameters(), lr=0.1) for part in (model, other)}
    right = []
    with Monitor(model, {'monitor_norm_freq': 1}, optimizer=optimizers[model]) as monitor:
        for _ in range(4):
            for part in (model, other) if first else (other, model):
                optimizers[part].zero_grad()
                loss = part(torch.randn(5, 3)).square().mean()
                loss.backward()
                optimizers[part].step()
                if part is model:
                    right.append(loss.item())
    records = monitor.take_records()
    assert [record.scalars['loss/backward'] for record in records] == pytest.approx(right)
    assert not any('loss/backward_1' in record.scalars for record in records)


def test_a_gradient_is_no_leftover_where_a_copy_is_differentiated() -> None:
    """First-order meta-learning: the gradient of an adapted copy is handed to the model."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, {'monitor_norm_freq': 1}, optimizer=optimizer) as monitor:
        for _ in range(8):
            adapted = copy.deepcopy(model)
            adapted(torch.randn(5, 3)).square().mean().backward()
            optimizer.zero_grad()
            for parameter, twin in zip(model.parameters(), adapted.parameters(), strict=True):
                parameter.grad = twin.grad
            optimizer.step()
    records = monitor.take_records()
    assert len(records) == 8
    assert not any('broken/leftover_gradient' in record.scalars for record in records)
