"""Dormancy of the network in whose forward pass an activation ran, against activities that the networks keep."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ding_normmon import Monitor

TAU = 0.1


class Block(nn.Module):
    """A linear layer and an activation that somebody else may use as well; keeps its activities."""

    def __init__(self, width: int, out: int, activation: nn.Module, bias: float, inner: Block | None = None) -> None:
        super().__init__()
        self.linear, self.activation, self.inner = nn.Linear(width, out), activation, inner
        self.kept: list[Tensor] = []
        nn.init.constant_(self.linear.bias[: out // 2], bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.linear(x))
        self.kept.append(x.detach().double().abs().mean(0))
        if self.inner is None:
            return x
        # What runs within has its own use of the activation, and so has this block afterwards.
        x = self.activation(self.inner(x) - 0.1)
        self.kept.append(x.detach().double().abs().mean(0))
        return x

    def dormant(self) -> float:
        kept = self.kept + ([] if self.inner is None else self.inner.kept)
        asleep = torch.cat([activity <= TAU * activity.mean() for activity in kept])
        return float(asleep.double().mean())


class Model(nn.Module):
    """Three groups of one activation, of which one runs within another's forward pass."""

    def __init__(self, kind: type[nn.Module], nested: bool, options: dict[str, Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        activation = kind(**options)
        self.adapter = Block(6, 6, activation, 2.0)
        self.encoder = Block(4, 6, activation, 3.0, self.adapter if nested else None)
        self.transformer = Block(6, 8, activation, -50.0)
        self.head_value = nn.Sequential(nn.Linear(8, 4), activation, nn.Linear(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(x)
        return self.head_value(self.transformer(x if self.encoder.inner is not None else self.adapter(x)))


@pytest.mark.parametrize(('kind', 'options'), [(nn.ReLU, {}), (nn.ReLU, {'inplace': True}), (nn.GELU, {})])
@pytest.mark.parametrize('nested', [False, True])
def test_an_activation_that_all_networks_use_is_a_layer_of_each(
    nested: bool, kind: type[nn.Module], options: dict[str, Any]
) -> None:
    model = Model(kind, nested, options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    config = {
        'monitor_norm_freq': 1,
        'preset': 'multitask',
        'budget': None,
        'dormant_taus': (TAU,),
        'module_groups': {} if nested else {'adapter': 'adapter'},
    }
    with Monitor(model, config, optimizer=optimizer) as monitor:
        value = model(torch.randn(32, 4))
        monitor.learner_step.publish('logits/value', value)
        value.square().mean().backward()
        optimizer.step()
    (record,) = monitor.take_records()
    for name in ('encoder', 'transformer') if nested else ('encoder', 'adapter', 'transformer'):
        expected = getattr(model, name).dormant()
        assert record.scalars[f'plasticity/{name}/dormant_tau{TAU:g}'] == pytest.approx(expected, abs=1e-12)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_a_network_that_raises_leaves_the_next_forward_pass_as_it_is() -> None:
    model = Model(nn.ReLU, True, {})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    config = {'monitor_norm_freq': 1, 'preset': 'multitask', 'budget': None, 'dormant_taus': (TAU,)}
    with Monitor(model, config, optimizer=optimizer) as monitor:
        with pytest.raises(RuntimeError):
            model.adapter(torch.randn(32, 5))
        value = model(torch.randn(32, 4))
        monitor.learner_step.publish('logits/value', value)
        value.square().mean().backward()
        optimizer.step()
    (record,) = monitor.take_records()
    assert record.scalars[f'plasticity/transformer/dormant_tau{TAU:g}'] == pytest.approx(model.transformer.dormant())
