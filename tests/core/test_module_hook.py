"""Hooks on a user's modules: copies do not have them, and what is traced does not meet them."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ding_normmon import Monitor


def train(within: Callable[[nn.Module], object], preset: str) -> tuple[list[float], Monitor]:
    """Train a few monitored steps with something of the user's in each; return the weights' norms, and the monitor."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Monitor(model, {'monitor_norm_freq': 1, 'preset': preset}, optimizer=optimizer) as monitor:
        for _ in range(3):
            within(model)
            optimizer.zero_grad()
            model(torch.ones(2, 3)).sum().backward()
            optimizer.step()
            within(model)
    return [float(parameter.detach().norm()) for parameter in model.parameters()], monitor


def saved(model: nn.Module) -> bytes:
    whole = io.BytesIO()
    torch.save(model, whole)
    return pickle.dumps(model) + whole.getvalue()


def copied(model: nn.Module) -> None:
    other = copy.deepcopy(model)
    other(torch.full((5, 3), 7.0)).sum().backward()
    assert all(getattr(hook, '__name__', '') == '__exit__' for hook in other._forward_hooks.values())


def differentiated(model: nn.Module) -> None:
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(weights: dict[str, Tensor], row: Tensor) -> Tensor:
        return torch.func.functional_call(model, weights, (row,)).sum()

    torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, torch.full((4, 3), 7.0))


def traced(model: nn.Module) -> None:
    torch.jit.trace(model, torch.full((5, 3), 7.0), check_trace=False)


def scripted(model: nn.Module) -> None:
    other = torch.jit.script(model)
    other(torch.full((5, 3), 7.0)).sum().backward()
    for parameter in model.parameters():
        # The scripted module has the same parameters.
        parameter.grad = None


def faked(model: nn.Module) -> None:
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        copy.deepcopy(model)(torch.ones(5, 3))
        model(torch.ones(5, 3))


@pytest.mark.parametrize('preset', ['basic', 'full'])
@pytest.mark.parametrize('within', [saved, copied, differentiated, traced, scripted, faked])
def test_what_is_done_with_the_model_between_steps_is_done_as_without_a_monitor(
    within: Callable[[nn.Module], object], preset: str
) -> None:
    weights, monitor = train(within, preset)
    assert weights == train(lambda model: None, preset)[0]
    records = monitor.take_records()
    assert [record.scalars['inputs/0/mean'] for record in records] == [1.0] * 3
    assert [record.scalars['inputs/batch_size'] for record in records] == [2.0] * 3


def test_a_saved_model_needs_no_monitor_to_be_loaded() -> None:
    kept: list[bytes] = []
    train(lambda model: kept.append(saved(model)), 'full')
    assert not any(b'ding_normmon' in content for content in kept)
    assert isinstance(torch.load(io.BytesIO(kept[1][kept[1].index(b'PK\x03\x04') :]), weights_only=False), nn.Module)


@pytest.mark.parametrize('preset', ['basic', 'full'])
def test_a_scripted_model_is_measured_without_what_takes_hooks(preset: str) -> None:
    torch.manual_seed(0)
    model = torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Monitor(model, {'monitor_norm_freq': 1, 'preset': preset}, optimizer=optimizer) as monitor:
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).sum().backward()
            optimizer.step()
    records = monitor.take_records()
    gradient = sum(float(p.grad.double().square().sum()) for p in model.parameters()) ** 0.5
    assert records[1].scalars['grad/model/_total_norm'] == pytest.approx(gradient, rel=1e-6)
    assert not monitor.lost_data.total
