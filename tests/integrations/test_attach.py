"""``attach``: every way in which gradients come about, what is refused, and that nothing is left behind."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import time
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ding_normmon import Attachment, ConfigurationError, Monitor, attach
from ding_normmon.core.record import Record
from ding_normmon.core.step import INERT
from ding_normmon.integrations.observe.hook_points import HookPoints
from tests.integrations.small_policies import (
    COEFFICIENTS,
    EVIDENCE,
    Accumulating,
    ActorCritic,
    Clipping,
    ClippingInParts,
    ClippingInStep,
    IgnoringInStep,
    Policy,
    Scaling,
    WithoutOptimizer,
)

GROUPS = ('encoder', 'actor_head', 'critic_head')
each_policy = pytest.mark.parametrize('kind', EVIDENCE, ids=lambda kind: kind.__name__)


def batches(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(5, 4, generator=generator) for _ in range(count)]


def run(policy: Any, calls: int = 3, **config: Any) -> tuple[list[Record], Attachment]:
    attachment = attach(policy, {'monitor_norm_freq': 1, **config})
    for data in batches(calls):
        policy._forward_learn(data)
    attachment.detach()
    return attachment.monitor.take_records(), attachment


def norm_of(gradients: dict[str, torch.Tensor], prefix: str = '') -> float:
    return float(np.sqrt(sum(float((g**2).sum()) for name, g in gradients.items() if name.startswith(prefix))))


@each_policy
def test_gradients_are_reported_before_anything_rescales_them(kind: type[Policy]) -> None:
    policy = kind()
    # From now on the hooks of DI-engine's optimizers run twice in a step, the second time after clipping.
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    records, attachment = run(policy)
    assert [record.iteration for record in records] == [0, 1, 2]
    for record, gradients in zip(records, policy.seen, strict=True):
        for group in GROUPS:
            assert record.scalars[f'grad/{group}/_total_norm'] == pytest.approx(norm_of(gradients, group), rel=1e-6)
        assert record.scalars['grad/model/_total_norm'] == pytest.approx(norm_of(gradients), rel=1e-6)
        for name, value in COEFFICIENTS.get(kind, {}).items():
            coefficient = value / (norm_of(gradients) + 1e-6)
            assert record.scalars[f'clip/{name}/coefficient'] == pytest.approx(coefficient, rel=1e-6)
    assert {optimizer.evidence for optimizer in attachment.description().optimizers} == {EVIDENCE[kind]}


@each_policy
def test_training_is_bitwise_the_same(kind: type[Policy]) -> None:
    plain, watched = kind(), kind()
    attachment = attach(watched, {'monitor_norm_freq': 1, 'clip_fraction': True})
    for data in batches(10):
        assert plain._forward_learn(data) == watched._forward_learn(data)
    attachment.detach()
    for first, second in zip(plain._learn_model.parameters(), watched._learn_model.parameters(), strict=True):
        assert torch.equal(first, second)
        assert torch.equal(first.grad, second.grad)


def test_signals_are_the_outputs_of_the_heads() -> None:
    policy = Policy()
    records, attachment = run(policy, calls=1)
    with torch.no_grad():
        actor, _ = Policy()._learn_model(batches(1)[0])
    assert records[0].scalars['outputs/actor_head/mean'] == pytest.approx(float(actor.double().mean()), rel=1e-6)
    assert attachment.description().signals == (('outputs/actor_head', True), ('outputs/critic_head', True))


def test_passes_that_are_not_the_loss_are_not_seen() -> None:
    class Analysing(Policy):
        def _forward_learn(self, data: torch.Tensor) -> dict[str, float]:
            with torch.no_grad():
                self._learn_model(data * 100)
            self._learn_model.eval()
            self._learn_model(data * 100)
            self._learn_model.train()
            return super()._forward_learn(data)

    expected, _ = run(Policy(), calls=1)
    found, _ = run(Analysing(), calls=1)
    for name, value in expected[0].scalars.items():
        if name.startswith('outputs/'):
            assert found[0].scalars[name] == value


def test_an_optimizer_that_rests_has_nothing_to_report() -> None:
    policy = ActorCritic()
    attachment = attach(policy, {'monitor_norm_freq': 1})
    for rest, data in zip((False, True, False), batches(3), strict=True):
        policy.rest = rest
        policy._forward_learn(data)
    attachment.detach()
    records = attachment.monitor.take_records()
    for record, rested in zip(records, (False, True, False), strict=True):
        assert ('grad/actor_head/_total_norm' in record.scalars) is not rested
        assert ('grad/model/_total_norm' in record.scalars) is not rested
        assert 'grad/critic_head/_total_norm' in record.scalars
        assert not [name for name in record.scalars if 'no_gradient' in name]


def test_accumulated_gradients_are_reported_where_the_cycle_ends() -> None:
    policy = Accumulating()
    records, _ = run(policy, calls=7, monitor_norm_freq=3)
    points = {record.iteration: record.scalars for record in records}
    assert sorted(points) == [0, 2, 3, 5, 6]
    assert 'grad/model/_total_norm' not in points[0]
    assert points[2]['grad/model/_total_norm'] == pytest.approx(norm_of(policy.seen[0]), rel=1e-6)
    assert 'norm/model/_total_norm' in points[3]


def test_a_call_in_which_the_scaler_leaves_the_step_out_has_no_record_and_is_counted() -> None:
    policy = Scaling()
    attachment = attach(policy, {'monitor_norm_freq': 1})
    first, second = batches(2)
    policy._forward_learn(first * float('inf'))
    policy._forward_learn(second)
    attachment.detach()
    (record,) = attachment.monitor.take_records()
    assert record.iteration == 1
    assert record.scalars['step/skipped'] == 1.0
    assert record.scalars['step/loss_scale'] == 512.0
    assert record.scalars['grad/model/_total_norm'] == pytest.approx(norm_of(policy.seen[1]), rel=1e-6)
    assert not record.findings


def test_clips_of_parts_are_named_after_them() -> None:
    policy = ClippingInParts()
    records, _ = run(policy, calls=1)
    part = norm_of(policy.seen[0], 'encoder')
    coefficient = 0.1 / (part + 1e-6)
    assert records[0].scalars['clip/encoder/coefficient'] == pytest.approx(coefficient, rel=1e-6)
    rest = norm_of(policy.seen[0], 'actor') ** 2 + norm_of(policy.seen[0], 'critic') ** 2
    expected = 0.1 / (np.sqrt(rest + (part * coefficient) ** 2) + 1e-6)
    assert records[0].scalars['clip/model/coefficient'] == pytest.approx(expected, rel=1e-6)


def test_an_ignored_gradient_has_the_coefficient_zero() -> None:
    records, _ = run(IgnoringInStep(), calls=1)
    assert records[0].scalars['clip/model/coefficient'] == 0.0


def test_the_fraction_of_clipped_steps_counts_every_step() -> None:
    policy = Clipping()
    attachment = attach(policy, {'monitor_norm_freq': 4, 'clip_fraction': True})
    small = [True, False, True, False, False, True, False, False, False]
    for data, tiny in zip(batches(len(small)), small, strict=True):
        with torch.no_grad():
            for parameter in policy._learn_model.parameters():
                parameter.fill_(1e-6 if tiny else 1.0)
        policy._forward_learn(data)
    attachment.detach()
    fractions = [record.scalars['clip/model/fraction'] for record in attachment.monitor.take_records()]
    assert fractions == [0.0, 3 / 4, 3 / 4]
    records, _ = run(Clipping())
    assert not [name for record in records for name in record.scalars if name.endswith('fraction')]


class Telling(Clipping):
    """Clips through torch, and tells of it or not."""

    def __init__(self, tells: bool) -> None:
        super().__init__()
        self.learner_step: Any = INERT
        self.tells = tells
        self.coefficients: list[float] = []

    def update(self, loss: torch.Tensor) -> None:
        """Fire the hook points."""
        step = self.learner_step
        self._optimizer.zero_grad()
        step.forward_end()
        loss.backward()
        step.backward_end()
        norm = torch.nn.utils.clip_grad_norm_(self._learn_model.parameters(), 8.0)
        self.coefficients.append(min(1.0, 8.0 / (float(norm) + 1e-6)))
        if self.tells:
            step.clipped(norm, 8.0)
        self._optimizer.step()
        step.step_end()


@pytest.mark.parametrize('tells', [False, True])
@pytest.mark.parametrize('frequency', [1, 4])
def test_what_is_told_by_the_policy_is_not_counted_again(tells: bool, frequency: int) -> None:
    policy = Telling(tells)
    attachment = attach(policy, {'monitor_norm_freq': frequency, 'clip_fraction': True})
    for data in batches(9):
        policy._forward_learn(data)
    attachment.detach()
    assert {coefficient < 1 for coefficient in policy.coefficients} == {False, True}
    records = attachment.monitor.take_records()
    assert [record.iteration for record in records] == list(range(0, 9, frequency))
    first = 0
    for record in records:
        since = policy.coefficients[first : record.iteration + 1]
        first = record.iteration + 1
        assert record.scalars['clip/model/coefficient'] == pytest.approx(since[-1], rel=1e-5)
        assert record.scalars['clip/model/fraction'] == pytest.approx(sum(c < 1 for c in since) / len(since))
    assert policy.learner_step is INERT


def test_an_off_step_hangs_on_nothing() -> None:
    policy = Clipping()
    attachment = attach(policy, {'monitor_norm_freq': 5})
    code = [function.__code__ for function in observed_functions(policy)]
    seen: list[tuple[bool, int]] = []
    update = policy.update

    def look(loss: torch.Tensor) -> None:
        hooks = sum(len(module._forward_hooks) for module in policy._learn_model.modules())
        seen.append((code == [function.__code__ for function in observed_functions(policy)], hooks))
        update(loss)

    policy.update = look  # type: ignore[method-assign]
    for data in batches(6):
        policy._forward_learn(data)
    attachment.detach()
    assert seen == [(False, 3)] + [(True, 0)] * 4 + [(False, 3)]
    assert code == [function.__code__ for function in observed_functions(policy)]
    assert not policy._optimizer._optimizer_step_pre_hooks


def observed_functions(policy: Policy) -> list[Any]:
    """What is exchanged while a step is looked at from outside."""
    return [torch.nn.utils.clip_grad_norm_]


class SayingEverything(Telling):
    """Fires all hook points and clips by itself, or leaves them to others."""

    says = True

    def update(self, loss: torch.Tensor) -> None:
        """Do a step."""
        step = self.learner_step if self.says else INERT
        self._optimizer.zero_grad()
        step.forward_end()
        loss.backward()
        step.backward_end()
        torch._foreach_mul_([parameter.grad for parameter in self._learn_model.parameters()], 0.5)
        step.clipped(2.0, 1.0)
        self._optimizer.step()
        step.step_end()


def test_a_policy_that_says_everything_is_not_watched_from_outside() -> None:
    policy = SayingEverything(True)
    attachment = attach(policy, {'monitor_norm_freq': 2})
    watched: list[bool] = []
    code = [function.__code__ for function in observed_functions(policy)]
    update = policy.update

    def look(loss: torch.Tensor) -> None:
        watched.append([function.__code__ for function in observed_functions(policy)] != code)
        update(loss)

    policy.update = look  # type: ignore[method-assign]
    for iteration, data in enumerate(batches(12)):
        policy.says = not 6 <= iteration < 10
        policy._forward_learn(data)
    attachment.detach()
    # From iteration 6 on it says nothing more; the step after it is taken for the end of a cycle of accumulation.
    assert [index for index, was_watched in enumerate(watched) if was_watched] == [0, 7, 8, 10]
    records = {record.iteration: record.scalars for record in attachment.monitor.take_records()}
    assert [iteration for iteration in records if 'grad/model/_total_norm' in records[iteration]] == [0, 2, 4, 7, 8, 10]
    # Where it does not say that it halves the gradient, that is found.
    name = 'clip/model/coefficient'
    coefficients = {index: scalars[name] for index, scalars in records.items() if name in scalars}
    assert coefficients == pytest.approx({0: 0.5, 2: 0.5, 4: 0.5, 7: 0.5, 8: 0.5, 10: 0.5}, rel=1e-5)


def test_a_step_that_raises_is_put_back() -> None:
    class Failing(Clipping):
        def loss(self, data: torch.Tensor) -> torch.Tensor:
            raise RuntimeError('no loss')

    policy = Failing()
    clip = torch.nn.utils.clip_grad_norm_
    attachment = attach(policy, {'monitor_norm_freq': 1})
    with pytest.raises(RuntimeError, match='no loss'):
        policy._forward_learn(batches(1)[0])
    assert torch.nn.utils.clip_grad_norm_ is clip
    assert not policy._optimizer._optimizer_step_pre_hooks
    attachment.detach()


# -- what is refused -------------------------------------------------------------------------------------------------


class NoForward:
    _learn_model = nn.Linear(1, 1)


class NoModel:
    def _forward_learn(self, data: Any) -> None: ...


@pytest.mark.parametrize(
    ('thing', 'message'),
    [
        (object(), 'object is no policy that can be measured: it has no _forward_learn'),
        (nn.Linear(1, 1), 'it has no _forward_learn'),
        (NoForward(), 'it has no _forward_learn'),
        (NoModel(), 'it has neither _learn_model nor _model'),
        (None, 'NoneType is no policy'),
    ],
)
def test_what_is_no_policy_is_refused(thing: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        attach(thing, {'monitor_norm_freq': 1})


def test_a_model_without_parameters_is_refused() -> None:
    policy = Policy()
    policy._learn_model = nn.Identity()  # type: ignore[assignment]
    with pytest.raises(ConfigurationError, match='Identity has no parameters to measure'):
        attach(policy, {'monitor_norm_freq': 1})
    assert '_forward_learn' not in vars(policy)


def test_attaching_twice_is_refused_and_the_first_goes_on() -> None:
    policy = Policy()
    attachment = attach(policy, {'monitor_norm_freq': 1})
    with pytest.raises(ConfigurationError, match='being monitored already'):
        attach(policy, {'monitor_norm_freq': 1})
    policy._forward_learn(batches(1)[0])
    attachment.detach()
    assert len(attachment.monitor.take_records()) == 1
    again = attach(policy, {'monitor_norm_freq': 1})
    again.detach()


def test_a_policy_without_optimizer_says_how_its_gradients_are_found() -> None:
    attachment = attach(WithoutOptimizer(), {'monitor_norm_freq': 1})
    assert any('no torch optimizer was found' in remark for remark in attachment.description().remarks)
    attachment.detach()


def test_switched_off_nothing_is_attached() -> None:
    policy = Policy()
    attachment = attach(policy, {'monitor_norm_freq': 0})
    assert '_forward_learn' not in vars(policy)
    assert 'nothing is attached' in attachment.describe()
    attachment.detach()


# -- detaching -------------------------------------------------------------------------------------------------------


def test_detaching_in_the_middle_of_a_step_forgets_the_step() -> None:
    class Detaching(Clipping):
        attachment: Attachment | None = None

        def update(self, loss: torch.Tensor) -> None:
            if self.attachment is not None and len(self.seen) == 1:
                self.attachment.detach()
            super().update(loss)

    plain, policy = Clipping(), Detaching()
    policy.attachment = attach(policy, {'monitor_norm_freq': 1})
    monitor = policy.attachment.monitor
    clip = torch.nn.utils.clip_grad_norm_
    for data in batches(3):
        plain._forward_learn(data)
        policy._forward_learn(data)
    assert [record.iteration for record in monitor.take_records()] == [0]
    assert torch.nn.utils.clip_grad_norm_ is clip
    assert not policy._optimizer._optimizer_step_pre_hooks
    assert not any(module._forward_hooks for module in policy._learn_model.modules())
    assert '_forward_learn' not in vars(policy)
    for first, second in zip(plain._learn_model.parameters(), policy._learn_model.parameters(), strict=True):
        assert torch.equal(first, second)


def test_a_view_that_was_taken_meanwhile_keeps_working() -> None:
    policy = Policy()
    attachment = attach(policy, {'monitor_norm_freq': 1})
    view = policy._forward_learn
    attachment.detach()
    assert 'total_loss' in view(batches(1)[0])
    assert attachment.monitor.take_records() == []


def test_a_method_of_the_object_itself_is_put_back() -> None:
    policy = Policy()
    mine = policy._forward_learn
    policy._forward_learn = mine  # type: ignore[method-assign]
    attachment = attach(policy, {'monitor_norm_freq': 1})
    attachment.detach()
    assert vars(policy)['_forward_learn'] is mine


def through_pickle(policy: Any) -> Any:
    return pickle.loads(pickle.dumps(policy))


@pytest.mark.parametrize('kind', [Clipping, functools.partial(Telling, True)])
@pytest.mark.parametrize('copied', [copy.deepcopy, through_pickle])
def test_a_copy_of_a_monitored_policy_is_a_policy_that_is_not(copied: Any, kind: Any) -> None:
    policy, plain = kind(), kind()
    attachment = attach(policy, {'monitor_norm_freq': 1})
    policy._forward_learn(torch.ones(5, 4))
    plain._forward_learn(torch.ones(5, 4))
    other = copied(policy)
    other._forward_learn(torch.ones(3, 4))
    policy._forward_learn(torch.ones(5, 4))
    plain._forward_learn(torch.ones(5, 4))
    for mine, same in zip(policy._learn_model.parameters(), plain._learn_model.parameters(), strict=True):
        assert torch.equal(mine, same)
    assert getattr(other, 'learner_step', INERT) is INERT
    # It may be monitored as well.
    second = attach(other, {'monitor_norm_freq': 1})
    other._forward_learn(torch.ones(3, 4))
    for closing, count in ((second, 1), (attachment, 2)):
        closing.detach()
        assert [record.iteration for record in closing.monitor.take_records()] == list(range(count))


def test_a_copy_that_is_made_within_a_step_is_not_being_measured() -> None:
    copies = []

    class Copying(Telling):
        def loss(self, data: torch.Tensor) -> torch.Tensor:
            copies.append(copy.deepcopy(self))
            return super().loss(data)

    policy = Copying(True)
    attachment = attach(policy, {'monitor_norm_freq': 1})
    policy._forward_learn(torch.ones(5, 4))
    assert copies[0].learner_step is INERT
    attachment.detach()


def test_detach_drops_every_reference_to_the_policy() -> None:
    policy = Clipping()
    attachment = attach(policy, {'monitor_norm_freq': 1})
    policy._forward_learn(batches(1)[0])
    attachment.detach()
    attachment.detach()
    gone = weakref.ref(policy)
    del policy
    gc.collect()
    assert gone() is None
    assert 'Clipping' in attachment.describe()


def test_a_policy_that_a_sweep_has_let_go_of_is_freed_although_nobody_detached() -> None:
    def trial() -> tuple[Any, Any]:
        policy = Clipping()
        attach(policy, {'monitor_norm_freq': 1})
        policy._forward_learn(batches(1)[0])
        return weakref.ref(policy), weakref.ref(policy._learn_model)

    trials = [trial() for _ in range(3)]
    gc.collect()
    assert all(policy() is None for policy, _ in trials)
    deadline = time.monotonic() + 10
    while any(model() is not None for _, model in trials) and time.monotonic() < deadline:
        time.sleep(0.01)
        gc.collect()
    assert all(model() is None for _, model in trials)


def test_a_new_policy_is_measured_for_itself() -> None:
    first, second = Policy(), Policy()
    one, two = (attach(policy, {'monitor_norm_freq': 1}) for policy in (first, second))
    for data in batches(2):
        second._forward_learn(data)
    one.detach()
    two.detach()
    assert one.monitor.take_records() == []
    assert [record.iteration for record in two.monitor.take_records()] == [0, 1]


@pytest.mark.slow
@pytest.mark.full
def test_two_hundred_rounds_leak_nothing() -> None:
    policy = ClippingInStep()
    data = batches(1)[0]

    def rounds(count: int) -> None:
        for _ in range(count):
            attachment = attach(policy, {'monitor_norm_freq': 1})
            policy._forward_learn(data)
            attachment.detach()

    def alive() -> set[int]:
        return {id(thing) for thing in gc.get_objects() if type(thing) in (Attachment, Monitor, HookPoints)}

    rounds(3)
    gc.collect()
    # Other tests of this process may have left some.
    others = alive()
    attributes, before = set(vars(policy)), len(gc.get_objects())
    policy.seen.clear()
    rounds(200)
    policy.seen.clear()
    gc.collect()
    assert set(vars(policy)) == attributes
    assert len(gc.get_objects()) - before < 200
    assert alive() <= others


# -- several models, compiled models ---------------------------------------------------------------------------------


def test_several_models_have_names_of_their_own() -> None:
    class WithAuxiliary(Policy):
        def __init__(self) -> None:
            super().__init__()
            self._aux_model = Model2()
            self._optimizer = torch.optim.Adam([*self._learn_model.parameters(), *self._aux_model.parameters()])

        def loss(self, data: torch.Tensor) -> torch.Tensor:
            return super().loss(data) + self._aux_model.head(data).sum()

    class Model2(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 1)

    records, attachment = run(WithAuxiliary(), calls=1)
    assert [group.key for group in attachment.description().groups] == [
        *(f'model.{name}' for name in GROUPS),
        'aux_model.head',
    ]
    assert 'outputs/aux_model_head/mean' in records[0].scalars


def test_a_compiled_model_says_that_its_signals_are_absent() -> None:
    policy = Policy()
    policy._learn_model = torch.compile(policy._learn_model, backend='eager')  # type: ignore[assignment]
    policy._optimizer = torch.optim.Adam(policy._learn_model.parameters())
    attachment = attach(policy, {'monitor_norm_freq': 2})
    for data in batches(3):
        policy._forward_learn(data)
    attachment.detach()
    found = attachment.description()
    records = attachment.monitor.take_records()
    assert [group.key for group in found.groups] == list(GROUPS)
    assert found.signals == ()
    assert any('signals of actor_head, critic_head: inside a compiled model' in remark for remark in found.remarks)
    assert all('grad/model/_total_norm' in record.scalars for record in records)


@pytest.mark.parametrize('preset', ['basic', 'full'])
def test_a_compiled_view_that_nobody_knows_of_is_compiled_as_without_a_monitor(preset: str) -> None:
    weights, graphs = [], []
    for frequency in (0, 2):
        torch.compiler.reset()
        policy = Policy()
        captured: set[tuple[int, int]] = set()

        def backend(graph: Any, inputs: Any, captured: set[tuple[int, int]] = captured) -> Any:
            (outputs,) = (node.args[0] for node in graph.graph.nodes if node.op == 'output')
            captured.add((len(graph.graph.nodes), len(outputs)))
            return graph.forward

        # A break in the graph would be an error; and the policy calls it by a name of its own.
        view = torch.compile(policy._learn_model, backend=backend, fullgraph=True)
        policy.loss = lambda data, view=view: sum((output**2).sum() for output in view(data))  # type: ignore[method-assign]
        attachment = attach(policy, {'monitor_norm_freq': frequency, 'preset': preset, 'budget': None})
        for data in batches(5):
            policy._forward_learn(data)
        attachment.detach()
        weights.append([parameter.detach().clone() for parameter in policy._learn_model.parameters()])
        graphs.append(captured)
    records = attachment.monitor.take_records()
    assert graphs[0] == graphs[1] != set()
    assert len(records) == 3
    assert all('grad/model/_total_norm' in record.scalars for record in records)
    assert all(map(torch.equal, *weights))


def test_layers_inside_a_compiled_module_are_not_listened_to(caplog: pytest.LogCaptureFixture) -> None:
    policy = Policy()
    encoder = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh())
    policy._learn_model.encoder = encoder
    encoder.compile(backend='eager')
    attachment = attach(policy, {'monitor_norm_freq': 1, 'preset': 'full'})
    policy._forward_learn(torch.ones(5, 4))
    attachment.detach()
    assert 'dormant_units looks at' in caplog.text
    (record,) = attachment.monitor.take_records()
    assert 'norm/encoder/_total_norm' in record.scalars
    assert not attachment.monitor.lost_data.total


def test_users_groups_win() -> None:
    records, _ = run(Policy(), calls=1, module_groups={'heads': {'path': ['actor_head', 'critic_head']}})
    names = {name for name in records[0].scalars if name.startswith('norm/')}
    assert names == {f'norm/{group}/_total_norm' for group in ('encoder', 'heads', 'model')}


class Rebuilding(Policy):
    """Replaces a layer at the beginning of its third call, and leaves the earlier one with its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.norms = 0, []

    def _forward_learn(self, data: torch.Tensor) -> dict[str, Any]:
        self.calls += 1
        if self.calls == 3:
            self._learn_model.encoder = nn.Sequential(copy.deepcopy(self._learn_model.encoder), nn.Identity())
            self._optimizer = torch.optim.SGD(self._learn_model.parameters(), lr=0.3)
        self.norms.append(total(self._learn_model.parameters()))
        return super()._forward_learn(data)


def total(tensors: Any) -> float:
    return float(torch.cat([tensor.detach().double().flatten() for tensor in tensors]).norm())


@pytest.mark.parametrize('preset', ['basic', 'full'])
def test_a_layer_that_is_replaced_within_a_call_is_measured_in_that_call(preset: str) -> None:
    policy = Rebuilding()
    attachment = attach(policy, {'monitor_norm_freq': 1, 'preset': preset})
    gradients = []
    for _ in range(5):
        policy._forward_learn(torch.ones(5, 4))
        gradients.append(total(p.grad for p in policy._learn_model.parameters() if p.grad is not None))
    attachment.detach()
    records = attachment.monitor.take_records()
    for name, right in (('norm', policy.norms), ('grad', gradients)):
        found = [record.scalars[f'{name}/model/_total_norm'] for record in records]
        assert found == pytest.approx(right, rel=1e-6)


def test_parameters_that_are_replaced_are_measured() -> None:
    policy = Policy()
    attachment = attach(policy, {'monitor_norm_freq': 1})
    norms = []
    for iteration in range(4):
        if iteration == 2:
            for module in policy._learn_model.modules():
                for name, parameter in list(module._parameters.items()):
                    if parameter is not None:
                        setattr(module, name, nn.Parameter(2 * parameter.detach()))
            policy._optimizer = torch.optim.SGD(policy._learn_model.parameters(), lr=0.1)
        weights = [parameter.detach().double().flatten() for parameter in policy._learn_model.parameters()]
        norms.append(torch.cat(weights).norm().item())
        policy._forward_learn(torch.ones(5, 4))
    attachment.detach()
    records = attachment.monitor.take_records()
    assert [record.scalars['norm/model/_total_norm'] for record in records] == pytest.approx(norms, rel=1e-6)
    assert all('grad/model/_total_norm' in record.scalars for record in records)
