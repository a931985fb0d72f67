"""The policies of the published package, each in its real learner step: exact, inert, and nothing left behind."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ding_normmon.core.parameter_groups import unwrap
from ding_normmon.core.step import LearnerStep
from ding_normmon.integrations.lightzero import lightzero_adapter
from tests.integrations.lightzero import measure
from tests.integrations.lightzero.policies import BATCH, POLICIES, UNROLL, batch, learn, padding, quietly
from tests.sampling import sampled

NAMES = list(POLICIES)
WORLD_MODELS = [name for name in NAMES if name.endswith('unizero')]
UNROLLED = [name for name in NAMES if not name.endswith('unizero')]

UNIZERO_RULES = {
    'encoder': r'^representation_network\.',
    'transformer': r'^world_model\.transformer\.',
    'head_value': r'^world_model\.head_value\.',
    'head_reward': r'^world_model\.head_rewards\.',
    'head_policy': r'^world_model\.(head_policy|fc_policy_head)\.',
    'head_observation': r'^world_model\.head_observations\.',
    'action_embedding': r'^world_model\.act_embedding_table\.',
    'position_embedding': r'^world_model\.pos_emb\.',
}
MUZERO_RULES = {
    'head_value': r'^prediction_network\.(conv1x1_value|norm_value|fc_value)',
    'head_policy': r'^prediction_network\.(conv1x1_policy|norm_policy|fc_policy)',
    'head_reward': r'^dynamics_network\.(conv1x1_reward|norm_reward|fc_reward_head|lstm|norm_value_prefix)',
    'prediction': r'^prediction_network\.',
    'dynamics': r'^dynamics_network\.',
    'projection': r'^(projection|prediction_head)\.',
    'encoder': r'^representation_network\.',
}


def rules_of(name: str) -> dict[str, str]:
    return UNIZERO_RULES if name in WORLD_MODELS else MUZERO_RULES


def seeded(name: str, **overrides: Any) -> Any:
    torch.manual_seed(0)
    np.random.seed(0)
    return POLICIES[name](**overrides)


def warmed_up(name: str, **overrides: Any) -> Any:
    """Return a policy after a few learner steps: heads that start at zero have moved."""
    policy = seeded(name, **overrides)
    for iteration in range(3):
        learn(policy, name, iteration)
    return policy


def mask_tensor(steps: int) -> Tensor:
    return torch.from_numpy(padding())[:, :steps].bool()


# -- exact -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', sampled(NAMES, 4))
def test_norms_equal_a_float64_computation(name: str) -> None:
    policy = warmed_up(name)
    groups = measure.named_groups(policy._learn_model, rules_of(name))
    weights = {group: [member.detach().clone() for member in members] for group, members in groups.items()}
    with measure.gradients_before_clipping(groups) as gradients, measure.monitored(policy) as records:
        output = learn(policy, name, 3)
    record = measure.only(records)
    measure.assert_norms(record, 'norm', weights)
    measure.assert_norms(record, 'grad', gradients)
    # LightZero's own figure, in float32.
    total = output.get('total_grad_norm_before_clip_wm', output.get('total_grad_norm_before_clip'))
    assert record.scalars['grad/model/_total_norm'] == pytest.approx(total, rel=1e-5)
    (coefficient,) = (value for metric, value in record.scalars.items() if metric.startswith('clip/'))
    norm = record.scalars['grad/model/_total_norm']
    assert coefficient == pytest.approx(min(1.0, policy._cfg.grad_clip_value / (norm + 1e-6)), rel=1e-5)


@pytest.mark.parametrize('name', sampled(WORLD_MODELS, 4))
def test_signals_of_a_world_model(name: str) -> None:
    policy = warmed_up(name)
    world_model = unwrap(policy._learn_model).world_model
    modules = {
        'embeddings/obs': world_model.tokenizer.encoder,
        'x_token': world_model.transformer,
        'logits/value': world_model.head_value,
        'logits/reward': world_model.head_rewards,
        'logits/policy': world_model.head_policy,
    }
    with measure.Calls(modules) as calls, measure.monitored(policy) as records:
        learn(policy, name, 3)
    expected: dict[str, float] = {}
    assert sorted(signal for signal, _ in calls.log) == sorted(modules)
    for signal, tensor in calls.log:
        expected |= measure.expected_statistics(signal, tensor, mask_tensor(UNROLL))
    measure.assert_signals(measure.only(records), expected)


@pytest.mark.parametrize('name', sampled(UNROLLED, 4))
def test_signals_of_an_unrolled_model(name: str) -> None:
    policy = warmed_up(name)
    model = policy._learn_model
    modules = {
        'encoder': model.representation_network,
        'prediction': model.prediction_network,
        'dynamics': model.dynamics_network,
    }
    with measure.Calls(modules) as calls, measure.monitored(policy) as records:
        learn(policy, name, 3)
    kinds = [kind for kind, _ in calls.log]
    # The self-supervised loss encodes and predicts once more after every unrolled step.
    if 'efficientzero' in name or policy._cfg.model.self_supervised_learning_loss:
        assert kinds == ['encoder', 'prediction'] + ['dynamics', 'prediction', 'encoder', 'prediction'] * UNROLL
    predictions = [calls.log[1][1]]
    predictions += [calls.log[index + 1][1] for index, kind in enumerate(kinds) if kind == 'dynamics']
    rewards = [output[-1] for kind, output in calls.log if kind == 'dynamics']
    tensors = {
        'embeddings/obs': calls.log[0][1].flatten(1),
        'logits/policy': torch.stack([policy_logits for policy_logits, _ in predictions], dim=1),
        'logits/value': torch.stack([value for _, value in predictions], dim=1),
        'logits/reward': torch.stack(rewards, dim=1),
    }
    expected: dict[str, float] = {}
    for signal, steps in zip(tensors, (1, UNROLL + 1, UNROLL + 1, UNROLL), strict=True):
        valid = tensors[signal].detach().double().reshape(BATCH, steps, -1)[mask_tensor(steps)]
        expected |= measure.statistics_of(signal, measure.values_of(signal, valid))
    measure.assert_signals(measure.only(records), expected)


# -- inert -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', sampled(NAMES, 4))
def test_training_is_bitwise_the_same_with_the_monitor(name: str) -> None:
    states = []
    for watch in (False, True):
        policy = seeded(name)
        with measure.monitored(policy) if watch else contextlib.nullcontext([]) as records:
            outputs = [learn(policy, name, iteration) for iteration in range(10)]
        states.append({**measure.state_of(policy), 'outputs': outputs})
    assert len(records) == 10
    measure.assert_same(*states)


@pytest.mark.parametrize('name', sampled(NAMES, 4))
def test_nothing_stays_attached(name: str) -> None:
    policy = warmed_up(name)
    clean, attributes = measure.traces_on(policy), set(vars(policy))
    with measure.monitored(policy):
        learn(policy, name, 3)
        assert measure.traces_on(policy) == clean
    assert measure.traces_on(policy) == clean
    assert set(vars(policy)) == attributes


@pytest.mark.parametrize('name', ['unizero', 'muzero'])
def test_nothing_stays_attached_to_a_step_that_failed(name: str) -> None:
    policy = warmed_up(name)
    clean = measure.traces_on(policy)
    data = batch(name, 3)
    data[1][2] = data[1][2][:, :1]  # policy targets of one step
    with measure.monitored(policy), quietly(), pytest.raises((IndexError, RuntimeError)):
        policy._forward_learn(data)
    assert measure.traces_on(policy) == clean


# -- what is counted, and when ---------------------------------------------------------------------------------------


class Listener:
    """Notes the hook points of a step, and whether there were gradients."""

    def __init__(self, policy: Any) -> None:
        self.parameters = list(policy._learn_model.parameters())
        self.points: list[tuple[str, bool]] = []
        self.published_after_forward_end = 0
        self.published: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []

    def on_publish(self, name: str, tensor: Tensor, task_id: int | None, mask: Tensor | None) -> None:
        assert task_id is None
        assert mask is not None
        self.published_after_forward_end += bool(self.points)
        self.published.append((name, tuple(tensor.shape), tuple(mask.shape)))

    def on_publish_loss(self, name: str, value: Tensor | float, task_id: int | None) -> None:
        assert task_id is None
        assert not self.points

    def on_hook_point(self, hook_point: str, step: LearnerStep) -> None:
        self.points.append((hook_point, any(parameter.grad is not None for parameter in self.parameters)))


@pytest.mark.parametrize('name', sampled(NAMES, 4))
def test_forward_end_comes_before_the_backward_pass_and_after_every_signal(name: str) -> None:
    policy = seeded(name)
    listener = Listener(policy)
    adapter = lightzero_adapter(policy)
    step = LearnerStep(0, listener)
    with (
        measure.hook_points_at_the_optimizers(step, policy),
        adapter.observe(step, batch(name, 0)),
    ):
        learn(policy, name, 0)
    assert listener.points == [('forward_end', False), ('backward_end', True), ('step_end', True)]
    published = [signal for signal, _, _ in listener.published if not signal.startswith('data/')]
    assert sorted(published) == sorted(adapter.signals)
    assert listener.published_after_forward_end == 0


@pytest.mark.parametrize('name', sampled(NAMES, 4))
def test_the_losses_are_those_that_the_policy_reports(name: str) -> None:
    policy = warmed_up(name)
    with measure.monitored(policy) as records:
        output = learn(policy, name, 3)
    record = measure.only(records)
    reported = {loss: output[f'{loss}_loss'] for loss in ('value', 'policy')}
    for loss, key in (('reward', 'reward_loss'), ('reward', 'value_prefix_loss'), ('obs', 'obs_loss')):
        if key in output:
            reported[loss] = output[key]
    assert len(reported) >= 3
    for loss, value in reported.items():
        assert record.scalars[f'noreduce_{loss}_loss'] == pytest.approx(torch.as_tensor(value).item(), rel=1e-6), loss
    assert not [metric for metric in record.scalars if metric.startswith('noreduce_') and '_task' in metric]


def test_analysis_passes_are_not_counted() -> None:
    """With the dormant ratio switched on, encoder and dynamics run again inside the loss."""
    name = 'muzero_image'
    records = []
    for analysed in (False, True):
        policy = seeded(name, cal_dormant_ratio=analysed, dormant_threshold=0.025)
        with measure.monitored(policy) as found:
            learn(policy, name, 0)
        records.append(measure.only(found).scalars)
    plain, analysed_record = records
    for metric in plain:
        if not metric.startswith('monitor/cost'):
            assert analysed_record[metric] == plain[metric], metric


class MaskListener(Listener):
    """Notes the masks only."""

    def on_publish(self, name: str, tensor: Tensor, task_id: int | None, mask: Tensor | None) -> None:
        self.published.append((name, tuple(tensor.shape), () if mask is None else tuple(mask.shape)))


def test_without_data_everything_counts_as_valid() -> None:
    policy = warmed_up('muzero')
    listener = MaskListener(policy)
    with lightzero_adapter(policy).observe(LearnerStep(0, listener)):
        learn(policy, 'muzero', 3)
    assert [mask for _, _, mask in listener.published] == [()] * 4


def test_accumulated_gradients() -> None:
    """UniZero clears its gradients only where a cycle begins; the forward pass is measured in every step."""
    policy = seeded('unizero', accumulation_steps=2)
    with measure.monitored(policy) as records:
        for iteration in range(2):
            learn(policy, 'unizero', iteration)
    assert ['grad/encoder/_total_norm' in record.scalars for record in records] == [False, True]
    assert all('norm/x_token/mean' in record.scalars for record in records)


def test_other_objects_are_of_another_family() -> None:
    class Plain:
        _learn_model = torch.nn.Linear(2, 2)

        def _forward_learn(self, data: Any) -> None: ...

    assert lightzero_adapter(Plain()) is None
    assert lightzero_adapter(object()) is None
    assert lightzero_adapter(POLICIES['muzero']().learn_mode) is None
