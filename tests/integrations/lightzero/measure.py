"""A monitor on a LightZero policy, and what it should have found, computed in float64 from what the test saw itself."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ding_normmon.core.parameter_groups import unwrap
from ding_normmon.core.record import Record
from ding_normmon.core.step import LearnerStep
from ding_normmon.integrations.attach import attach
from ding_normmon.integrations.policy_model import find_optimizers

STATISTICS = ('mean', 'std', 'max', 'min')


@contextlib.contextmanager
def monitored(policy: Any, **config: Any) -> Iterator[list[Record]]:
    """Measure the learner steps inside the block; the records are complete when it ends."""
    records: list[Record] = []
    attachment = attach(policy, {'monitor_norm_freq': 1, **config})
    assert attachment.description().policy.startswith('LightZero')
    try:
        yield records
    finally:
        attachment.detach()
        records += attachment.monitor.take_records()


@contextlib.contextmanager
def hook_points_at_the_optimizers(step: LearnerStep, policy: Any) -> Iterator[None]:
    """Fire ``backward_end`` and ``step_end`` of a step of the test's own where an optimizer of the model steps."""
    trained = {id(parameter) for parameter in policy._learn_model.parameters()}
    with contextlib.ExitStack() as undo:
        for optimizer in find_optimizers(policy).values():
            if id(optimizer.param_groups[0]['params'][0]) in trained:
                undo.callback(optimizer.register_step_pre_hook(lambda *_: step.backward_end()).remove)
                undo.callback(optimizer.register_step_post_hook(lambda *_: step.step_end()).remove)
        yield


def only(records: list[Record]) -> Record:
    (record,) = records
    assert not [name for name in record.scalars if name.startswith('monitor/lost')], record.scalars
    return record


# -- groups ----------------------------------------------------------------------------------------------------------


def norm_of(tensors: list[Tensor]) -> float:
    return float(np.sqrt(sum(float((tensor.detach().double() ** 2).sum()) for tensor in tensors)))


def named_groups(model: nn.Module, rules: Mapping[str, str]) -> dict[str, list[nn.Parameter]]:
    """Return the parameters of each group by a regular expression on their names; the first rule that fits wins."""
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in rules}
    groups['other'] = []
    for name, parameter in unwrap(model).named_parameters():
        group = next((group for group, rule in rules.items() if re.search(rule, name)), 'other')
        groups[group].append(parameter)
    return {name: parameters for name, parameters in groups.items() if parameters}


@contextlib.contextmanager
def gradients_before_clipping(groups: Mapping[str, list[nn.Parameter]]) -> Iterator[dict[str, list[Tensor]]]:
    """Copy every gradient at the first clip call of the block."""
    found: dict[str, list[Tensor]] = {}
    clip = torch.nn.utils.clip_grad_norm_

    def copy_then_clip(parameters: Any, *args: Any, **kwargs: Any) -> Any:
        if not found:
            for name, members in groups.items():
                found[name] = [member.grad.clone() for member in members if member.grad is not None]
        return clip(parameters, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.utils, 'clip_grad_norm_', copy_then_clip)
        yield found


def assert_norms(record: Record, family: str, tensors: Mapping[str, list[Tensor]]) -> None:
    """Every group's figure is there and right, and there is no other group."""
    scalars = record.scalars
    for group, members in tensors.items():
        name = f'{family}/{group}/_total_norm'
        if members:
            assert scalars[name] == pytest.approx(norm_of(members), rel=1e-6, abs=1e-12), name
        else:
            assert name not in scalars
            assert scalars[f'monitor/no_gradient/{group}'] == 1.0
    everything = norm_of([member for members in tensors.values() for member in members])
    assert scalars[f'{family}/model/_total_norm'] == pytest.approx(everything, rel=1e-6)
    found = {name.split('/')[1] for name in scalars if re.fullmatch(rf'{family}/[^/]+/_total_norm', name)}
    assert found == {group for group, members in tensors.items() if members} | {'model'}


# -- signals ---------------------------------------------------------------------------------------------------------


def expected_statistics(signal: str, tensor: Tensor, mask: Tensor, task: str = '') -> dict[str, float]:
    """Return the figures of one signal; ``tensor`` is (B, n*T, ...) or (B*T, ...), ``mask`` (B, T)."""
    batch, steps = mask.shape
    tensor = tensor.detach().double().reshape(batch, -1, tensor.shape[-1])
    valid = tensor[mask.bool().repeat_interleave(tensor.shape[1] // steps, dim=1)]
    return statistics_of(signal, values_of(signal, valid), task)


def values_of(signal: str, valid: Tensor) -> Tensor:
    """Return the numbers whose statistics are reported: entries, or the norms of vectors."""
    return valid.norm(dim=-1) if signal in ('x_token', 'embeddings/obs') else valid.reshape(-1)


def statistics_of(signal: str, values: Tensor, task: str = '') -> dict[str, float]:
    statistics = {'mean': values.mean(), 'std': values.std(), 'max': values.max(), 'min': values.min()}
    if signal.startswith('logits'):
        statistics['abs_max'] = values.abs().max()
    family, prefix = {'x_token': ('norm/x_token', ''), 'embeddings/obs': ('embeddings/obs', 'norm_')}.get(
        signal, (signal, '')
    )
    return {f'{family}{task}/{prefix}{name}': float(value) for name, value in statistics.items()}


def assert_signals(record: Record, expected: Mapping[str, float]) -> None:
    """Every statistic is there and right, and there is no other."""
    for name, value in expected.items():
        assert record.scalars[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name
    families = r'(logits/\w+|embeddings/obs\w*|norm/x_token\w*)/\w+'
    assert {name for name in record.scalars if re.fullmatch(families, name)} == set(expected)


class Calls:
    """The outputs of some modules, in the order in which they were called in gradient mode."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.log: list[tuple[str, Any]] = []
        self._handles = [
            module.register_forward_hook(lambda module, inputs, output, name=name: self._add(name, output))
            for name, module in modules.items()
        ]

    def _add(self, name: str, output: Any) -> None:
        if torch.is_grad_enabled():
            self.log.append((name, output))

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


# -- nothing changed, nothing left -----------------------------------------------------------------------------------


def state_of(policy: Any) -> dict[str, Any]:
    """Return everything that a learner step may change."""
    optimizers = find_optimizers(policy)
    return {
        'weights': unwrap(policy._learn_model).state_dict(),
        'target': policy._target_model.state_dict(),
        'optimizers': {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
        'torch': torch.get_rng_state(),
        'numpy': np.random.get_state()[1],
        'training': [module.training for module in policy._learn_model.modules()],
    }


def assert_same(first: Any, second: Any, where: str = 'state') -> None:
    """Two states are equal to the last bit."""
    if isinstance(first, Mapping):
        assert list(first) == list(second), where
        for key, value in first.items():
            assert_same(value, second[key], f'{where}.{key}')
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for index, value in enumerate(first):
            assert_same(value, second[index], f'{where}[{index}]')
    elif isinstance(first, (Tensor, np.ndarray)):
        left, right = torch.as_tensor(first), torch.as_tensor(second)
        assert torch.equal(left.nan_to_num() if left.is_floating_point() else left, right.nan_to_num()
                           if right.is_floating_point() else right), where  # fmt: skip
    else:
        assert first == second or (first != first and second != second), where


def traces_on(policy: Any) -> list[str]:
    """Return what an observer might have left: hooks, and attributes of single objects that hide those of the class."""
    model = unwrap(policy._learn_model)
    found = []
    for name, module in model.named_modules():
        hooks = len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        hidden = {'compute_loss', 'initial_inference', 'recurrent_inference', 'forward'} & set(vars(module))
        found += [f'{name}: {hooks} hooks'] * bool(hooks) + [f'{name}.{attribute}' for attribute in hidden]
    for name, optimizer in find_optimizers(policy).items():
        if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
            found.append(f'{name}: step hooks')
        found += [f'{name}.{attribute}' for attribute in {'zero_grad', 'step'} & set(vars(optimizer))]
    return found
