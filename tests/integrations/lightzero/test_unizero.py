"""LightZero's own single-task UniZero, measured from outside: the same names without a task suffix, exact, inert."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from easydict import EasyDict

from ding_normmon import ConfigurationError, NormMonitor
from ding_normmon.core.record import Record
from tests.integrations.lightzero.policies import UNROLL, batch
from tests.integrations.lightzero.policies import unizero as unizero_policy

GROUPS = {
    'encoder': 'tokenizer.encoder',
    'transformer': 'transformer',
    'head_value': 'head_value',
    'head_reward': 'head_rewards',
    'head_policy': 'head_policy',
}
SIGNALS = {
    'embeddings/obs': 'tokenizer.encoder',
    'x_token': 'transformer',
    'logits/value': 'head_value',
    'logits/reward': 'head_rewards',
    'logits/policy': 'head_policy',
}


@contextlib.contextmanager
def monitored(policy: Any, **config: Any) -> Iterator[list[Record]]:
    records: list[Record] = []

    class Collecting:
        def publish(self, record: Record) -> None:
            records.append(record)

        def close(self) -> None:
            pass

    monitor = NormMonitor(EasyDict(monitor_norm_freq=1, **config), policy, destinations=[Collecting()])
    try:
        yield records
    finally:
        monitor.close()


def learn(policy: Any, iteration: int) -> dict[str, Any]:
    with contextlib.redirect_stdout(io.StringIO()):
        return policy._forward_learn(batch('unizero', iteration, seed=iteration))


def world_model_of(policy: Any) -> Any:
    return policy._learn_model._orig_mod.world_model


def float64_norm(tensors: list[torch.Tensor]) -> float:
    return float(np.sqrt(sum(float((tensor.detach().double() ** 2).sum()) for tensor in tensors)))


def test_every_metric_equals_a_float64_computation(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = unizero_policy()
    for iteration in range(3):
        learn(policy, iteration)
    world_model = world_model_of(policy)
    modules = {name: world_model.get_submodule(path) for name, path in GROUPS.items()}
    weights = {name: [p.detach().clone() for p in module.parameters()] for name, module in modules.items()}
    gradients: dict[str, list[torch.Tensor]] = {}
    clip = torch.nn.utils.clip_grad_norm_

    def remember_then_clip(parameters: Any, *args: Any, **kwargs: Any) -> Any:
        for name, module in modules.items():
            gradients[name] = [p.grad.clone() for p in module.parameters() if p.grad is not None]
        return clip(parameters, *args, **kwargs)

    monkeypatch.setattr(torch.nn.utils, 'clip_grad_norm_', remember_then_clip)
    outputs: dict[str, torch.Tensor] = {}

    def remember(name: str) -> Any:
        def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
            outputs.setdefault(name, output.detach().double())

        return hook

    handles = [world_model.get_submodule(path).register_forward_hook(remember(name)) for name, path in SIGNALS.items()]
    with monitored(policy) as records:
        output = learn(policy, 3)
    for handle in handles:
        handle.remove()
    scalars = records[0].scalars

    for name in GROUPS:
        assert scalars[f'norm/{name}/_total_norm'] == pytest.approx(float64_norm(weights[name]), rel=1e-6)
        assert scalars[f'grad/{name}/_total_norm'] == pytest.approx(float64_norm(gradients[name]), rel=1e-6)
    assert scalars['grad/model/_total_norm'] == pytest.approx(output['total_grad_norm_before_clip_wm'], rel=1e-5)

    mask = torch.from_numpy(batch('unizero', 3, seed=3)[0][3])[:, :-1].bool()
    rows, steps = mask.shape
    assert steps == UNROLL
    for name, tensor in outputs.items():
        tensor = tensor.reshape(rows, -1, tensor.shape[-1])
        valid = tensor[mask.repeat_interleave(tensor.shape[1] // steps, dim=1)]
        values = valid.norm(dim=-1) if name in ('x_token', 'embeddings/obs') else valid.reshape(-1)
        expected = {'mean': values.mean(), 'std': values.std(), 'max': values.max(), 'min': values.min()}
        if name.startswith('logits'):
            expected['abs_max'] = values.abs().max()
        prefix = {'x_token': 'norm/x_token/', 'embeddings/obs': 'embeddings/obs/norm_'}.get(name, f'{name}/')
        for statistic, value in expected.items():
            assert scalars[f'{prefix}{statistic}'] == pytest.approx(float(value), rel=1e-6, abs=1e-9), name
    assert not any('_task' in name for name in scalars)


def test_training_is_bitwise_the_same_with_the_monitor() -> None:
    states = []
    for watch in (False, True):
        torch.manual_seed(0)
        np.random.seed(0)
        policy = unizero_policy()
        with monitored(policy) if watch else contextlib.nullcontext():
            outputs = [learn(policy, iteration) for iteration in range(5)]
        losses = [output['weighted_total_loss'] for output in outputs]
        states.append((policy._learn_model.state_dict(), losses, torch.get_rng_state(), np.random.get_state()[1]))
    plain, watched = states
    assert plain[1] == watched[1]
    for name, tensor in plain[0].items():
        assert torch.equal(tensor, watched[0][name]), name
    assert torch.equal(plain[2], watched[2])
    assert np.array_equal(plain[3], watched[3])


def test_nothing_stays_attached() -> None:
    policy = unizero_policy()
    clip = torch.nn.utils.clip_grad_norm_
    before = set(vars(policy))
    with monitored(policy):
        learn(policy, 0)
        assert torch.nn.utils.clip_grad_norm_ is clip
        world_model = world_model_of(policy)
        assert not any(module._forward_hooks for module in world_model.modules())
        assert 'compute_loss' not in vars(world_model)
    assert set(vars(policy)) <= before | {'_forward_learn'}
    assert '_forward_learn' not in vars(policy)
    assert not policy._optimizer_world_model._optimizer_step_pre_hooks


def test_frequency_zero_attaches_nothing() -> None:
    policy = unizero_policy()
    monitor = NormMonitor(EasyDict(monitor_norm_freq=0), policy)
    assert '_forward_learn' not in vars(policy)
    learn(policy, 0)
    monitor.close()


def test_accumulated_gradients_are_reported_where_the_cycle_ends() -> None:
    policy = unizero_policy(accumulation_steps=2)
    monitor = NormMonitor(EasyDict(monitor_norm_freq=4), policy, destinations=[])
    for iteration in range(6):
        learn(policy, iteration)
    monitor.close()
    records = monitor.monitor.take_records()
    points = {record.iteration: record.scalars for record in records}
    assert sorted(points) == [0, 1, 4, 5]
    assert 'norm/encoder/_total_norm' in points[0]
    assert 'grad/encoder/_total_norm' not in points[0]
    assert 'grad/encoder/_total_norm' in points[1]
    assert 'norm/encoder/_total_norm' not in points[1]


def test_monitoring_twice_is_refused() -> None:
    policy = unizero_policy()
    with monitored(policy), pytest.raises(ConfigurationError, match='being monitored already'):
        NormMonitor(EasyDict(monitor_norm_freq=1), policy)


def test_a_mode_view_is_refused() -> None:
    with pytest.raises(TypeError, match='mode views'):
        NormMonitor(EasyDict(monitor_norm_freq=1), unizero_policy().learn_mode)
