"""The gradient before clipping, however a program clips; the norms of a step are computed outside, in float64."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from ding.torch_utils.optimizer_helper import RMSprop
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from ding_normmon import Monitor, Record, attach
from ding_normmon.metrics.clipping import AS_FOUND, FOUND

Clip = Callable[[list[nn.Parameter]], Any]


def norm(parameters: Iterable[nn.Parameter]) -> float:
    return sum(float((p.grad.double() ** 2).sum()) for p in parameters if p.grad is not None) ** 0.5


# -- programs: what stands between a backward pass and the optimizer's step ------------------------------------------


def bound_as_default(parameters: list[nn.Parameter], clip: Callable[..., Any] = clip_grad_norm_) -> None:
    clip(parameters, 0.5)


class Trainer:
    clip = staticmethod(clip_grad_norm_)
    table = {'norm': clip_grad_norm_}


def imported_late(parameters: list[nn.Parameter]) -> None:
    """A helper module that exists only since the monitor runs."""
    module = types.ModuleType('helper')
    exec('from torch.nn.utils.clip_grad import clip_grad_norm_ as shorten\ndef clip(p): shorten(p, 0.5)', vars(module))
    module.clip(parameters)


def in_two_calls(parameters: list[nn.Parameter]) -> None:
    total = nn.utils.get_total_norm([p.grad for p in parameters])
    nn.utils.clip_grads_with_norm_(parameters, max_norm=torch.tensor(0.5), total_norm=total)


def by_generator(parameters: list[nn.Parameter]) -> None:
    clip_grad_norm_((p for p in parameters), 0.5)


def by_keyword(parameters: list[nn.Parameter]) -> None:
    clip_grad_norm_(max_norm=np.float32(0.5), parameters=parameters)


def lightning(parameters: list[nn.Parameter]) -> None:
    """What ``Precision.clip_grad_by_norm`` of Lightning does."""
    torch.nn.utils.clip_grad_norm_(parameters, 0.5)


ANNOUNCED: dict[str, Clip] = {
    'imported by name': lambda ps: clip_grad_norm_(ps, 0.5),
    'bound as a default argument': bound_as_default,
    'a class attribute': lambda ps: Trainer.clip(ps, 0.5),
    'in a table': lambda ps: Trainer.table['norm'](ps, 0.5),
    'a partial': functools.partial(clip_grad_norm_, max_norm=0.5),
    'imported late': imported_late,
    'in two calls': in_two_calls,
    'a generator': by_generator,
    'a NumPy limit by keyword': by_keyword,
    'a tensor as limit': lambda ps: clip_grad_norm_(ps, torch.tensor([0.5])),
    'an array as limit': lambda ps: clip_grad_norm_(ps, np.array(0.5)),
    'an integer as limit': lambda ps: [clip_grad_norm_(ps, 1), clip_grad_norm_(ps, 0.5)],
    'another norm': lambda ps: clip_grad_norm_(ps, 0.5, norm_type=2.0, foreach=False),
    'Lightning': lightning,
}


def scaled(parameters: list[nn.Parameter]) -> None:
    total = torch.stack([p.grad.norm() for p in parameters]).norm()
    for p in parameters:
        p.grad.mul_((0.5 / total).clamp(max=1.0))


def assigned(parameters: list[nn.Parameter]) -> None:
    for p in parameters:
        p.grad = 0.25 * p.grad


def through_data(parameters: list[nn.Parameter]) -> None:
    """As in old scripts; no version counter sees it."""
    for p in parameters:
        p.grad.data.clamp_(-0.01, 0.01)


def through_numpy(parameters: list[nn.Parameter]) -> None:
    for p in parameters:
        p.grad.numpy()[...] *= 0.5


def forgotten_and_set(parameters: list[nn.Parameter]) -> None:
    gradients = [0.5 * p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    for p, gradient in zip(parameters, gradients, strict=True):
        p.grad = gradient


def adaptive(parameters: list[nn.Parameter]) -> None:
    """AGC per unit, as timm has it."""
    for p in parameters:
        dims = tuple(range(1, p.ndim))
        size = p.detach().norm(dim=dims, keepdim=True) if dims else p.detach().abs()
        length = p.grad.norm(dim=dims, keepdim=True) if dims else p.grad.abs()
        limit = 0.01 * size.clamp(min=1e-3)
        p.grad.detach().copy_(torch.where(length < limit, p.grad, p.grad * (limit / length.clamp(min=1e-6))))


def noisy(parameters: list[nn.Parameter]) -> None:
    for p in parameters:
        p.grad += 0.1 * torch.randn_like(p.grad)


def one_of_two(parameters: list[nn.Parameter]) -> None:
    parameters[0].grad.mul_(0.1)


BY_HAND: dict[str, Clip] = {
    'multiplied in place': scaled,
    'assigned': assigned,
    'foreach': lambda ps: torch._foreach_mul_([p.grad for p in ps], 0.125),
    'through .data': through_data,
    'through NumPy': through_numpy,
    'forgotten and set': forgotten_and_set,
    'adaptive': adaptive,
    'noise': noisy,
    'one parameter of several': one_of_two,
    'dropped': lambda ps: [p.grad.zero_() for p in ps],
}


def train(clip: Clip | None, iterations: int = 3, clip_at: Callable[[int], bool] = lambda index: True) -> Any:
    """Train with the monitor around; return its records, the norms before clipping and the ratios after it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    true, ratios = [], []
    with Monitor(model, {'monitor_norm_freq': 1}, optimizer=optimizer) as monitor:
        for index in range(iterations):
            optimizer.zero_grad()
            (10 * model(torch.randn(16, 4))).square().mean().backward()
            parameters = list(model.parameters())
            true.append(norm(parameters))
            if clip is not None and clip_at(index):
                clip(parameters)
            ratios.append(norm(parameters) / true[-1])
            optimizer.step()
    assert not monitor.lost_data.total
    return monitor.take_records(), true, ratios


def check(records: list[Record], true: list[float], ratios: list[float]) -> None:
    scalars = [record.scalars for record in records]
    assert [entry['grad/model/_total_norm'] for entry in scalars] == pytest.approx(true, rel=1e-6)
    assert [entry.get('clip/model/coefficient') for entry in scalars] == pytest.approx(ratios, rel=1e-5)


@pytest.mark.parametrize('kind', ANNOUNCED)
def test_a_call_is_seen_whichever_way_the_function_was_imported(kind: str) -> None:
    records, true, ratios = train(ANNOUNCED[kind])
    check(records, true, ratios)
    assert not any('clip/model' in record.notes for record in records)


@pytest.mark.parametrize('kind', BY_HAND)
def test_what_clips_by_hand_is_found_and_said_once(kind: str) -> None:
    records, true, ratios = train(BY_HAND[kind])
    check(records, true, ratios)
    assert [record.notes.get('clip/model') for record in records] == [FOUND, None, None]


def test_where_nothing_clips_nothing_is_said() -> None:
    records, true, _ = train(None)
    assert [record.scalars['grad/model/_total_norm'] for record in records] == pytest.approx(true, rel=1e-6)
    assert not any(name.startswith('clip/') for record in records for name in (*record.scalars, *record.notes))


def test_what_clips_now_and_then_is_found_when_it_does() -> None:
    records, true, ratios = train(scaled, 4, clip_at=lambda index: index % 2 == 1)
    scalars = [record.scalars for record in records]
    assert [entry['grad/model/_total_norm'] for entry in scalars] == pytest.approx(true, rel=1e-6)
    assert [entry.get('clip/model/coefficient') for entry in scalars] == [
        None, pytest.approx(ratios[1], rel=1e-5), None, pytest.approx(ratios[3], rel=1e-5)
    ]
    assert [FOUND in record.notes.values() for record in records] == [False, True, False, False]


def test_values_that_are_clipped_have_no_coefficient_but_the_gradient_before() -> None:
    records, true, _ = train(lambda ps: clip_grad_value_(ps, 0.01))
    assert [record.scalars['grad/model/_total_norm'] for record in records] == pytest.approx(true, rel=1e-6)
    assert not any(name.startswith('clip/') for record in records for name in (*record.scalars, *record.notes))


def test_a_gradient_that_several_passes_have_made_is_read_after_the_last() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    true = []
    with Monitor(model, {'monitor_norm_freq': 1}, optimizer=optimizer) as monitor:
        for _ in range(3):
            optimizer.zero_grad(set_to_none=False)
            for _ in range(3):
                model(torch.randn(5, 4)).square().mean().backward()
            true.append(norm(model.parameters()))
            scaled(list(model.parameters()))
            optimizer.step()
    assert [r.scalars['grad/model/_total_norm'] for r in monitor.take_records()] == pytest.approx(true, rel=1e-6)


@pytest.mark.parametrize('other_first', [True, False])
def test_a_backward_pass_of_another_model_is_not_taken_for_ours(other_first: bool) -> None:
    torch.manual_seed(0)
    model, other = nn.Linear(4, 1), nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    true, ratios = [], []
    with Monitor(model, {'monitor_norm_freq': 1}, optimizer=optimizer) as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            if other_first:
                other(torch.randn(5, 4)).square().mean().backward()
            (10 * model(torch.randn(5, 4))).square().mean().backward()
            true.append(norm(model.parameters()))
            scaled(list(model.parameters()))
            ratios.append(norm(model.parameters()) / true[-1])
            if not other_first:
                other(torch.randn(5, 4)).square().mean().backward()
            optimizer.step()
    check(monitor.take_records(), true, ratios)


@pytest.mark.parametrize('by_backward', [True, False])
def test_a_gradient_correction_that_nobody_declared_is_noted(by_backward: bool) -> None:
    """PCGrad by hand on two losses that are in conflict."""
    torch.manual_seed(0)
    model, inputs = nn.Linear(4, 1), torch.randn(8, 4)
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.01)

    def gradient_towards(target: float) -> Tensor:
        loss = (model(inputs) - target).square().mean()
        if not by_backward:
            return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, parameters)])
        optimizer.zero_grad()
        loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter in parameters])

    with Monitor(model, {'monitor_norm_freq': 1}, optimizer=optimizer) as monitor:
        first, second = gradient_towards(1.0), gradient_towards(-3.0)
        inner = first @ second
        assert inner < 0
        corrected = first - inner / second.norm() ** 2 * second + second - inner / first.norm() ** 2 * first
        for parameter, part in zip(parameters, corrected.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter).clone()
        optimizer.step()
    (record,) = monitor.take_records()
    before, after = float(second.double().norm()), float(corrected.double().norm())
    if by_backward:
        # What the last backward pass has left, and how much of it there was when the optimizer stepped.
        assert 'PCGrad' in record.notes['clip/model']
        assert record.scalars['grad/model/_total_norm'] == pytest.approx(before, rel=1e-6)
        assert record.scalars['clip/model/coefficient'] == pytest.approx(after / before, rel=1e-5)
    else:
        assert record.notes['clip'] == AS_FOUND
        assert record.scalars['grad/model/_total_norm'] == pytest.approx(after, rel=1e-6)


class Policy:
    """Clips by hand, and writes its gradient itself if asked to."""

    def __init__(self, clip: Clip, by_grad: bool = False) -> None:
        torch.manual_seed(0)
        self._learn_model = nn.ModuleDict({'encoder': nn.Linear(4, 4), 'head': nn.Linear(4, 1)})
        self._optimizer = torch.optim.SGD(self._learn_model.parameters(), lr=0.1)
        self._clip, self._by_grad = clip, by_grad
        self.true: list[float] = []

    def _forward_learn(self, data: Tensor) -> None:
        parameters = list(self._learn_model.parameters())
        loss = self._learn_model['head'](self._learn_model['encoder'](data)).square().mean()
        self._optimizer.zero_grad()
        if self._by_grad:
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad = gradient
        else:
            loss.backward()
        self.true.append(norm(parameters))
        self._clip(parameters)
        self._optimizer.step()


def test_describe_says_of_clipping_no_more_than_is_known() -> None:
    policy = Policy(scaled)
    attachment = attach(policy, {'monitor_norm_freq': 1, 'history': False})
    assert 'as far as that can be seen from outside' in attachment.describe()
    policy._forward_learn(torch.ones(2, 4))
    attachment.monitor.close()
    text = attachment.describe()
    attachment.detach()
    assert 'local (one rank), before clipping\n' in text
    assert 'clip coefficients: clip/model/coefficient' in text
    assert 'no clip call was seen' in text


def test_describe_does_not_say_before_clipping_of_a_gradient_whose_backward_pass_nobody_saw() -> None:
    policy = Policy(lambda parameters: None, by_grad=True)
    attachment = attach(policy, {'monitor_norm_freq': 1, 'history': False})
    policy._forward_learn(torch.ones(2, 4))
    text = attachment.describe()
    attachment.detach()
    (record,) = attachment.monitor.take_records()
    assert record.scalars['grad/model/_total_norm'] == pytest.approx(policy.true[0], rel=1e-6)
    assert record.notes['clip'] == AS_FOUND
    assert 'before clipping' not in text
    assert 'as the optimizer found it' in text


def test_a_mock_in_the_place_of_a_clip_function_is_let_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Fake:
        def __call__(self, *args: Any, **kwargs: Any) -> None:
            calls.append(args)

    monkeypatch.setattr(torch.nn.utils, 'clip_grad_norm_', Fake())
    records, true, _ = train(lambda ps: torch.nn.utils.clip_grad_norm_(ps, 1.0))
    assert len(calls) == 3
    assert [record.scalars['grad/model/_total_norm'] for record in records] == pytest.approx(true, rel=1e-6)


def test_an_exception_of_a_clip_call_reaches_whoever_trains() -> None:
    code = clip_grad_norm_.__code__, sys.modules['torch'].autograd.backward.__code__
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, {'monitor_norm_freq': 1}, optimizer=optimizer):
        (model(torch.ones(1, 2)) * float('nan')).sum().backward()
        with pytest.raises(RuntimeError, match='non-finite'):
            clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
        with pytest.raises(TypeError):
            clip_grad_norm_()
        optimizer.step()
    assert (clip_grad_norm_.__code__, torch.autograd.backward.__code__) == code


@pytest.mark.parametrize('kind', ['clip_momentum', 'clip_momentum_norm'])
def test_what_an_optimizer_clips_by_its_moments_within_its_step_is_found(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = RMSprop(model.parameters(), lr=1e-3, grad_clip_type=kind, clip_value=0.1, clip_momentum_timestep=1)
    true, ratios = [], []
    with Monitor(model, {'monitor_norm_freq': 1}, optimizer=optimizer) as monitor:
        for index in range(4):
            optimizer.zero_grad()
            (10**index * model(torch.ones(2, 4))).square().mean().backward()
            true.append(norm(model.parameters()))
            optimizer.step()
            ratios.append(norm(model.parameters()) / true[-1])
    scalars = [record.scalars for record in monitor.take_records()]
    assert [entry['grad/model/_total_norm'] for entry in scalars] == pytest.approx(true, rel=1e-6)
    coefficients = [entry.get('clip/model/coefficient', 1.0) for entry in scalars]
    assert coefficients == pytest.approx(ratios, rel=1e-6)
    assert min(ratios) < 0.9
