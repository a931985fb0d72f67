"""One learner step on one rank."""

from __future__ import annotations

import gc
import math
from typing import Any

import numpy as np
import pytest
import torch
from lzero.mcts.buffer.game_buffer_unizero import UniZeroGameBuffer
from lzero.mcts.buffer.game_segment import GameSegment
from torch import Tensor

from ding_normmon.core.step import Clip, LearnerStep
from ding_normmon.unizero.gradient_synchronisation import clip_gradients, squared_gradient_norm
from tests.unizero.builders import random_batch, tiny_policy


class Recorder:
    """A listener that notes shapes and hook points."""

    def __init__(self) -> None:
        self.tensors: dict[tuple[str, int | None], tuple[Any, ...]] = {}
        self.losses: dict[tuple[str, int | None], float] = {}
        self.events: list[str] = []
        self.step_losses: dict[int, float] = {}
        self.gradient_norm = 0.0

    def on_publish(self, name: str, tensor: Tensor, task_id: int | None, mask: Tensor | None) -> None:
        assert mask is not None
        self.tensors[name, task_id] = (tuple(tensor.shape), tuple(mask.shape), mask.dtype)

    def on_publish_loss(self, name: str, value: Tensor | float, task_id: int | None) -> None:
        self.losses[name, task_id] = float(value)

    def on_clip(self, clip: Clip) -> None:
        pass

    def on_hook_point(self, hook_point: str, step: LearnerStep) -> None:
        self.events.append(hook_point)
        if hook_point == 'forward_end':
            assert step.losses is not None
            assert all(loss.requires_grad for loss in step.losses.values())
            self.step_losses = {task_id: loss.item() for task_id, loss in step.losses.items()}


def test_a_step_publishes_and_fires() -> None:
    policy = tiny_policy(3, mixed=True, task_loss_weight=[1.0, 2.0, 0.5])
    recorder = Recorder()
    policy.learner_step = LearnerStep(0, recorder)
    data = [random_batch(policy, 2, 0, batch_size=5), random_batch(policy, 1, 0, batch_size=3)]
    output = policy._forward_learn(data)
    assert recorder.events == ['forward_end', 'local_backward_end', 'backward_end', 'step_end']
    assert recorder.tensors['x_token', 2] == ((5, 8, 16), (5, 4), torch.bool)
    assert recorder.tensors['logits/policy', 2][0] == (5, 4, 4)
    assert recorder.tensors['logits/policy', 1][0] == (3, 4, 3)
    assert recorder.tensors['logits/value', 1][0] == (3, 4, 7)
    assert recorder.tensors['logits/reward', 1][0] == (3, 4, 7)
    assert recorder.tensors['embeddings/obs', 1][0] == (12, 1, 16)
    assert {task_id for _, task_id in recorder.tensors} == {1, 2}
    for (name, task_id), value in recorder.losses.items():
        if name.startswith(('data/', 'target/')):
            continue  # what the batch and the target network are like is for the monitor alone
        assert output[f'{name}_task{task_id}'] == pytest.approx(value)
    assert sum(recorder.step_losses.values()) == pytest.approx(output['total_loss'])
    weighted = {
        task_id: 10 * output[f'noreduce_obs_loss_task{task_id}']
        + 0.5 * output[f'noreduce_value_loss_task{task_id}']
        + output[f'noreduce_reward_loss_task{task_id}']
        + output[f'noreduce_policy_loss_task{task_id}']
        for task_id in (1, 2)
    }
    assert recorder.step_losses[1] == pytest.approx(2.0 * weighted[1] / 2, rel=1e-5)
    assert recorder.step_losses[2] == pytest.approx(0.5 * weighted[2] / 2, rel=1e-5)


def test_a_measured_step_is_bitwise_an_unmeasured_one() -> None:
    policies = [tiny_policy(2), tiny_policy(2)]
    policies[1].learner_step = LearnerStep(0, Recorder())
    outputs = [p._forward_learn([random_batch(p, task_id, 0) for task_id in (0, 1)]) for p in policies]
    assert outputs[0] == outputs[1]
    for left, right in zip(policies[0]._model.parameters(), policies[1]._model.parameters(), strict=True):
        assert torch.equal(left, right)


def test_nothing_of_the_step_stays() -> None:
    def count_tensors() -> int:
        gc.collect()
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    policy = tiny_policy(2)
    data = [random_batch(policy, task_id, 0) for task_id in (0, 1)]
    policy._forward_learn(data)
    before = count_tensors()
    policy.learner_step = LearnerStep(0, Recorder())
    policy._forward_learn(data)
    assert count_tensors() == before
    assert policy._model.world_model._kept is None


def test_metrics_are_floats_under_the_names_that_were_announced() -> None:
    policy = tiny_policy(4, [3, 1])
    output = policy._forward_learn([random_batch(policy, task_id, 0) for task_id in (3, 1)])
    assert set(output) == set(policy._monitor_vars_learn())
    assert all(type(value) is float and math.isfinite(value) for value in output.values())
    only_one = policy._forward_learn([random_batch(policy, 1, 0)])
    assert set(output) - set(only_one) == {name for name in output if name.endswith('_task3')}


def test_padded_steps_do_not_matter() -> None:
    clean, dirty = tiny_policy(2, mixed=True), tiny_policy(2, mixed=True)
    data = [random_batch(clean, task_id, 0) for task_id in (0, 1)]
    changed = [random_batch(clean, task_id, 0) for task_id in (0, 1)]
    rng = np.random.default_rng(1)
    for current, target, task_id in changed:
        padded = current[3] == 0  # (B, T + 1)
        assert padded[:, :-1].any()
        shape = clean.tasks[task_id].observation_shape
        observations = current[0].reshape(len(padded), -1, *shape)
        observations[padded] = rng.random(observations[padded].shape)
        current[1][padded[:, :-1]] = 0
        for array in target:
            array[padded] = rng.random(array[padded].shape)
    outputs = [clean._forward_learn(data), dirty._forward_learn(changed)]
    for name, value in outputs[0].items():
        if 'latent_state_l2_norms' not in name:  # LightZero's average over all embeddings of the batch
            assert outputs[1][name] == pytest.approx(value, rel=1e-5, abs=1e-7), name
    for left, right in zip(clean._model.parameters(), dirty._model.parameters(), strict=True):
        torch.testing.assert_close(left, right)


def test_data_that_cannot_be() -> None:
    policy = tiny_policy(3, [0, 1])
    with pytest.raises(ValueError, match=r'trains the tasks \[0, 1\].*got batches of the tasks \[2\]'):
        policy._forward_learn([random_batch(policy, 2, 0)])
    with pytest.raises(ValueError, match='one batch each'):
        policy._forward_learn([random_batch(policy, 0, 0), random_batch(policy, 0, 1)])
    with pytest.raises(ValueError, match='data of at least one task'):
        policy._forward_learn([])
    current, target, _ = random_batch(policy, 0, 0)
    target[2] = target[2][..., :2]
    with pytest.raises(ValueError, match='3 actions, but its batch has policies over 2'):
        policy._forward_learn([(current, target, 0)])


def test_a_huge_finite_gradient_is_clipped_and_not_lost() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2))]
    parameters[0].grad = torch.tensor([3e25, 0.0, 0.0])
    parameters[1].grad = torch.tensor([0.0, 4e25])
    squared = squared_gradient_norm(parameters)
    assert math.sqrt(squared) == pytest.approx(5e25)
    assert clip_gradients(parameters, squared, 10.0) == pytest.approx(5e25)
    assert parameters[0].grad.tolist() == pytest.approx([6.0, 0.0, 0.0])
    assert parameters[1].grad.tolist() == pytest.approx([0.0, 8.0])


def test_clipping_is_torchs_own_on_ordinary_gradients() -> None:
    policy, reference = tiny_policy(2, grad_clip_value=0.1), tiny_policy(2, grad_clip_value=1e9)
    for p in (policy, reference):
        p._forward_learn([random_batch(p, task_id, 0) for task_id in (0, 1)])
    norm = torch.nn.utils.clip_grad_norm_(reference._model.parameters(), 0.1)
    assert float(norm) > 0.1
    for left, right in zip(policy._model.parameters(), reference._model.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad)


def test_a_non_finite_gradient_skips_the_step() -> None:
    policy = tiny_policy(1)
    before = [parameter.clone() for parameter in policy._model.parameters()]
    handle = policy._model.world_model.pos_emb.weight.register_hook(lambda gradient: gradient * float('nan'))
    output = policy._forward_learn([random_batch(policy, 0, 0)])
    handle.remove()
    assert math.isnan(output['total_grad_norm_before_clip_wm'])
    assert output['skipped_steps'] == 1
    after = policy._model.parameters()
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert policy._forward_learn([random_batch(policy, 0, 0)])['skipped_steps'] == 1


def test_the_target_follows_slowly() -> None:
    policy = tiny_policy(1, target_update_theta=0.25)
    before = [parameter.clone() for parameter in policy._target_model.parameters()]
    policy._forward_learn([random_batch(policy, 0, 0)])
    for old, new, model in zip(before, policy._target_model.parameters(), policy._model.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * model)


def test_dropout_leaves_the_global_random_state_alone() -> None:
    policy = tiny_policy(2, model={'world_model_cfg': {'resid_pdrop': 0.3, 'embed_pdrop': 0.3}})
    state = torch.random.get_rng_state()
    data = [random_batch(policy, task_id, 0) for task_id in (0, 1)]
    first, second = policy._forward_learn(data), policy._forward_learn(data)
    assert torch.equal(state, torch.random.get_rng_state())
    assert first != second


@pytest.mark.parametrize('reanalyze_ratio', [0.0, 0.5])
@pytest.mark.parametrize('mixed', [False, True])
def test_batches_of_lightzeros_replay_buffer(mixed: bool, reanalyze_ratio: float) -> None:
    policy = tiny_policy(2, mixed=mixed, game_segment_length=6, reanalyze_ratio=reanalyze_ratio, batch_size=[4, 6])
    rng = np.random.default_rng(0)
    data = []
    for task_id in (0, 1):
        cfg, task = policy.task_cfg(task_id), policy.tasks[task_id]
        buffer = UniZeroGameBuffer(cfg)
        segments = []
        for _ in range(4):
            segment = GameSegment(range(task.action_space_size), game_segment_length=6, config=cfg)
            segment.reset([rng.random(task.observation_shape, dtype=np.float32)])
            for step in range(6):
                segment.store_search_stats([1] * task.action_space_size, 0.5)
                segment.append(
                    int(rng.integers(task.action_space_size)),
                    rng.random(task.observation_shape, dtype=np.float32),
                    1.0,
                    np.ones(task.action_space_size),
                    -1,
                    step,
                )
            segment.game_segment_to_array()
            segments.append(segment)
        buffer.push_game_segments((segments, [{'priorities': None, 'done': True}] * 4))
        current, target = buffer.sample(cfg.batch_size, policy.task_view(task_id))
        data.append((current, target, task_id))
    output = policy._forward_learn(data)
    assert set(output) == set(policy._monitor_vars_learn())
    expected = random_batch(policy, 0, 0)
    for given, built in zip((*data[0][0], *data[0][1]), (*expected[0], *expected[1]), strict=True):
        assert np.shape(given) == np.shape(built)


def test_temperature_falls_linearly() -> None:
    policy = tiny_policy(1, temperature={'start': 1.0, 'end': 0.5, 'decay_iterations': 10})
    assert [policy.collect_temperature(i) for i in (0, 5, 10, 99)] == [1.0, 0.75, 0.5, 0.5]
