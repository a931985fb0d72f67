"""DI-engine's own policies, each with its real learner step: exact figures, the same training, nothing left behind."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ding_normmon import attach
from ding_normmon.core.record import Record
from tests.integrations.ding_engine.policies import CASES, Case
from tests.integrations.reference import Recorder, assert_step, norm
from tests.sampling import sampled

each_policy = pytest.mark.parametrize('case', sampled(CASES.values()), ids=CASES)


def learn(policy: Any, case: Case, calls: int) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [policy._forward_learn(*case.batch(generator)) for _ in range(calls)]


def target_of(policy: Any) -> nn.Module | None:
    """Return the target network inside of what DI-engine wraps it in."""
    model = getattr(policy, '_target_model', None)
    while model is not None and not isinstance(model, nn.Module):
        model = model._model
    return model


def measured(policy: Any, case: Case, calls: int, **config: Any) -> tuple[list[Record], Recorder, Any]:
    attachment = attach(policy, {'monitor_norm_freq': 1, **config})
    model = policy._model
    recorder = Recorder(model, case.heads, case.several, target_of(policy))
    generator = torch.Generator().manual_seed(0)
    for _ in range(calls):
        recorder.begin()
        with recorder.recording():
            policy._forward_learn(*case.batch(generator))
    attachment.detach()
    return attachment.monitor.take_records(), recorder, attachment


@each_policy
def test_every_figure_equals_a_float64_computation(case: Case) -> None:
    policy = case.make()
    records, recorder, _ = measured(policy, case, calls=3)
    assert [record.iteration for record in records] == list(range(len(recorder.steps)))
    assert len(records) == (18 if case.several else 3)
    for record, step in zip(records, recorder.steps, strict=True):
        assert_step(record.scalars, step, policy._model, case.groups)
        assert (step.target is not None) == ('target/distance' in record.scalars)
        resting = {f'grad/{name}/_total_norm' for name in case.rests} if record.iteration % 2 == 0 else set()
        assert resting.isdisjoint(record.scalars)
        assert {f'clip/{name}/coefficient' for name in case.coefficients} == {
            name for name in record.scalars if name.startswith('clip/')
        }
        for name in case.coefficients:
            clipped = policy._model if name == 'model' else policy._model.get_submodule(case.groups[name])
            gradients = [step.gradients[id(parameter)] for parameter in clipped.parameters()]
            expected = min(1.0, 0.05 / (norm(gradients) + 1e-6))
            assert record.scalars[f'clip/{name}/coefficient'] == pytest.approx(expected, rel=1e-5)
            assert expected < 1
    for (last, before), (record, step) in itertools.pairwise(zip(records, recorder.steps, strict=True)):
        if before.target is not None and step.target is not None:
            moved = any(not torch.equal(*pair) for pair in zip(before.target, step.target, strict=True))
            fingerprints = [entry.scalars['monitor/fingerprint/target'] for entry in (last, record)]
            assert (fingerprints[0] != fingerprints[1]) == moved
            online = [step.weights[id(parameter)] for parameter in policy._model.parameters()]
            then, now, model = (
                torch.cat([weight.flatten() for weight in weights]) for weights in (before.target, step.target, online)
            )
            gone, way = now - then, model - then
            # The figure is made of some numbers of the largest tensors.
            share = float(torch.dot(gone, way) / torch.dot(way, way)) if moved else 0.0
            assert record.scalars.get('target/followed', 0.0) == pytest.approx(share, rel=0.05)


@each_policy
def test_a_due_step_is_the_same_whatever_is_due_besides(case: Case) -> None:
    every, _, _ = measured(_seeded(case), case, calls=3)
    some, _, _ = measured(_seeded(case), case, calls=3, monitor_norm_freq=2)
    expected = {record.iteration: record.scalars for record in every}
    assert [record.iteration for record in some] == [iteration for iteration in expected if iteration % 2 == 0]
    for record in some:
        for name, value in record.scalars.items():
            # How far a target network goes in an iteration is told since the step measured before.
            if not name.startswith(('monitor/cost', 'target/followed')):
                assert value == expected[record.iteration][name], name


def _seeded(case: Case) -> Any:
    torch.manual_seed(0)
    np.random.seed(0)
    return case.make()


@each_policy
def test_training_is_bitwise_the_same_with_the_monitor(case: Case) -> None:
    states = []
    for watch in (False, True):
        policy = _seeded(case)
        attachment = attach(policy, {'monitor_norm_freq': 1, 'clip_fraction': True}) if watch else None
        learn(policy, case, calls=10)
        if attachment is not None:
            attachment.detach()
        weights = list(policy._learn_model.state_dict().values())
        optimizers = [value for name, value in vars(policy).items() if isinstance(value, torch.optim.Optimizer)]
        weights += [t for o in optimizers for state in o.state.values() for t in state.values() if torch.is_tensor(t)]
        weights += [p.grad for p in policy._model.parameters() if p.grad is not None]
        states.append((weights, torch.get_rng_state(), np.random.get_state()[1], policy._model.training))
    plain, watched = states
    assert len(plain[0]) == len(watched[0])
    assert all(torch.equal(first, second) for first, second in zip(plain[0], watched[0], strict=True))
    assert torch.equal(plain[1], watched[1])
    assert np.array_equal(plain[2], watched[2])
    assert plain[3] == watched[3]


@each_policy
def test_nothing_stays_attached(case: Case) -> None:
    policy = case.make()
    before = set(vars(policy))
    attachment = attach(policy, {'monitor_norm_freq': 1})
    learn(policy, case, calls=1)
    attachment.detach()
    added = set(vars(policy)) - before
    assert '_forward_learn' not in vars(policy)
    assert not any('monitor' in name for name in added)
    for module in policy._model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    for parameter in policy._model.parameters():
        assert not parameter._post_accumulate_grad_hooks
        assert not parameter._backward_hooks
    for value in vars(policy).values():
        if isinstance(value, torch.optim.Optimizer):
            assert not value._optimizer_step_pre_hooks
            assert not value._optimizer_step_post_hooks
    assert torch.nn.utils.clip_grad_norm_.__module__ == 'torch.nn.utils.clip_grad'


@each_policy
def test_the_description_names_what_was_found(case: Case) -> None:
    policy = case.make()
    _, _, attachment = measured(policy, case, calls=2)
    found = attachment.description()
    assert [group.key for group in found.groups] == list(case.groups)
    assert sorted(name for name, _ in found.signals if not name.startswith('data/')) == sorted(case.heads)
    assert all(seen for _, seen in found.signals)
    assert {f'clip/{name}/coefficient' for name in case.coefficients} == set(found.coefficients)
    assert sum(group.parameters for group in found.groups) == sum(p.numel() for p in policy._model.parameters())
    text = attachment.describe()
    assert type(policy).__name__ in text
    assert all(optimizer.evidence in text for optimizer in found.optimizers)
