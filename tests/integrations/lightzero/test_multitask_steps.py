"""The learner steps of multi-task policies: what is measured when, and that training stays the same to the last bit."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor

from ding_normmon.core.parameter_groups import unwrap
from ding_normmon.core.step import LearnerStep
from ding_normmon.integrations.lightzero import lightzero_adapter
from tests.integrations.lightzero import measure
from tests.integrations.lightzero.multitask import (
    BATCHES,
    NAMES,
    WORLD_MODELS,
    batch,
    learn,
    seeded,
    valid_steps,
    warmed_up,
)
from tests.integrations.lightzero.policies import UNROLL
from tests.sampling import sampled

# -- when ------------------------------------------------------------------------------------------------------------


def test_the_weights_are_those_that_made_the_forward_pass() -> None:
    """The encoder clip rescales weights between the backward pass and the clip call; it is not what is reported."""
    name = 'unizero_multitask'
    policy = seeded(name, encoder_clip=1.0)
    encoder = unwrap(policy._learn_model).tokenizer.encoder
    before = measure.norm_of([parameter.detach().clone() for parameter in encoder.parameters()])
    with measure.monitored(policy) as records:
        learn(policy, name, 2)
    after = measure.norm_of(list(encoder.parameters()))
    assert after < 0.9 * before
    assert measure.only(records).scalars['norm/encoder/_total_norm'] == pytest.approx(before, rel=1e-6)


class Listener:
    """Notes what the hook points see."""

    def __init__(self, policy: Any) -> None:
        self.parameters = list(policy._learn_model.parameters())
        self.gradients = self.copies()
        self.shared = unwrap(policy._learn_model).world_model.transformer.ln_f.weight
        self.losses: list[int] = []
        self.points: list[str] = []

    def copies(self) -> list[Tensor]:
        return [parameter.grad.clone() for parameter in self.parameters if parameter.grad is not None]

    def on_publish(self, name: str, tensor: Tensor, task_id: int | None, mask: Tensor | None) -> None:
        assert not self.points
        assert task_id is not None

    def on_publish_loss(self, name: str, value: Tensor | float, task_id: int | None) -> None:
        assert not self.points

    def on_hook_point(self, hook_point: str, step: LearnerStep) -> None:
        self.points.append(hook_point)
        if hook_point != 'forward_end':
            return
        # The gradients are still those of the step before.
        measure.assert_same(self.copies(), self.gradients)
        for task_id, loss in (step.losses or {}).items():
            (gradient,) = torch.autograd.grad(loss, self.shared, retain_graph=True)
            assert gradient.abs().sum() > 0
            self.losses.append(task_id)


@pytest.mark.parametrize('name', sampled(WORLD_MODELS, 2))
def test_every_task_has_its_loss_and_its_graph_at_forward_end(name: str) -> None:
    policy, task_ids = warmed_up(name), (2, 0)
    listener = Listener(policy)
    step, adapter = LearnerStep(0, listener), lightzero_adapter(policy)
    with (
        measure.hook_points_at_the_optimizers(step, policy),
        adapter.observe(step, batch(name, 2, task_ids)),
    ):
        learn(policy, name, 2, task_ids)
    assert listener.points == ['forward_end', 'backward_end', 'step_end']
    assert listener.losses == list(task_ids)


def test_ignored_gradients_are_measured_before_they_are_cleared() -> None:
    name = 'unizero_multitask'
    policy = warmed_up(name)
    with measure.monitored(policy) as records:
        learn(policy, name, 2, ignore_grad=True)
    scalars = measure.only(records).scalars
    assert scalars['grad/encoder/_total_norm'] > 0
    assert scalars['norm/encoder/_total_norm'] > 0


# -- inert -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', sampled(NAMES, 2))
def test_training_is_bitwise_the_same_with_the_monitor(name: str) -> None:
    states = []
    for watch in (False, True):
        policy = seeded(name)
        with measure.monitored(policy) if watch else contextlib.nullcontext([]) as records:
            outputs = [learn(policy, name, iteration, BATCHES[iteration % 3]) for iteration in range(10)]
        states.append({**measure.state_of(policy), 'outputs': outputs})
    assert len(records) == 10
    measure.assert_same(*states)


@pytest.mark.parametrize('name', sampled(NAMES, 2))
def test_nothing_stays_attached(name: str) -> None:
    policy = warmed_up(name)
    clean, attributes = measure.traces_on(policy), set(vars(policy))
    with measure.monitored(policy):
        learn(policy, name, 2)
        assert measure.traces_on(policy) == clean
    assert measure.traces_on(policy) == clean
    assert set(vars(policy)) == attributes


# -- batches that nobody expects -------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', sampled(NAMES, 2))
@pytest.mark.parametrize('task_ids', sampled([((0, 1, 0),), ((1, 1),), ((2, 0, 2, 2),)]))
def test_a_task_that_the_batch_has_twice_is_measured_and_training_goes_on(name: str, task_ids: tuple[int, ...]) -> None:
    states = []
    for watched in (False, True):
        policy = seeded(name)
        with measure.monitored(policy) if watched else contextlib.nullcontext([]) as records:
            for iteration in range(2):
                learn(policy, name, iteration, task_ids)
        states.append(measure.state_of(policy))
    measure.assert_same(*states)
    assert [record.iteration for record in records] == [0, 1]
    for record in records:
        assert {f'logits/value_task{task_id}/mean' for task_id in task_ids} <= set(record.scalars)
    lost = sum(record.scalars.get('monitor/lost/mistake', 0) for record in records)
    # The unroll of a MuZero policy does not tell the second part of a task from its self-supervised loss.
    assert (lost > 0) == (name == 'muzero_multitask')


def test_the_rows_of_a_task_that_the_batch_has_twice_merge() -> None:
    name, task_ids = 'unizero_multitask', (1, 0, 1)
    policy = warmed_up(name)
    world_model = unwrap(policy._learn_model).world_model
    with (
        measure.Calls({'logits/value': world_model.head_value_multi_task[1]}) as calls,
        measure.monitored(policy, preset='multitask', budget=None) as records,
    ):
        output = learn(policy, name, 2, task_ids)
    mask = valid_steps(1, UNROLL)
    values = torch.cat([measure.values_of('logits/value', tensor[mask]) for _, tensor in calls.log])
    assert len(calls.log) == 2
    record = measure.only(records)
    for metric, value in measure.statistics_of('logits/value', values, '_task1').items():
        assert record.scalars[metric] == pytest.approx(value, rel=1e-6), metric
    # LightZero names losses by position in the batch.
    mean = (output['noreduce_value_loss_task0'] + output['noreduce_value_loss_task2']) / 2
    assert record.scalars['noreduce_value_loss_task1'] == pytest.approx(float(mean), rel=1e-6)
    # The two losses of the task are one part of the gradient, so that it is explained by those of the tasks.
    assert 'conflict/encoder_task1/share' in record.scalars
    assert 'monitor/lost/metric_gradient_conflict' not in record.scalars


@pytest.mark.parametrize('name', sampled(NAMES, 2))
def test_a_task_that_the_policy_was_not_told_of_is_left_out_and_counted(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    states = []
    for watched in (False, True):
        policy = seeded(name, task_num=2)
        with (
            measure.monitored(policy, preset='multitask', budget=None)
            if watched
            else contextlib.nullcontext([]) as records
        ):
            for iteration in range(3):
                learn(policy, name, iteration, (0, 2, 1) if iteration < 2 else (0, 1))
        states.append(measure.state_of(policy))
    measure.assert_same(*states)
    assert sum(record.scalars.get('monitor/lost/mistake', 0) for record in records) == 2
    for record in records:
        assert 'logits/value_task0/mean' in record.scalars
        assert 'logits/value_task2/mean' not in record.scalars
    assert 'the batch holds task 2, and this rank trains [0, 1]' in caplog.text
