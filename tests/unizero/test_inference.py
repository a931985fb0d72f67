"""Inference: histories and search caches of tasks, modes and environments do not touch each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from lzero.model.unizero_world_models.world_model import WorldModel
from torch import Tensor

from ding_normmon.unizero import BoundModel, UniZeroMultitaskPolicy
from ding_normmon.unizero.inference_cache import InferenceCache
from tests.unizero.builders import tiny_policy


def observations(policy: UniZeroMultitaskPolicy, task_id: int, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 * task_id + seed)
    return torch.rand((count, *policy.tasks[task_id].observation_shape), generator=generator)


def evaluate(policy: UniZeroMultitaskPolicy, task_id: int, step: int, environments: list[int]) -> dict[int, Any]:
    data = observations(policy, task_id, 4, step)[environments]
    mask = [np.ones(policy.tasks[task_id].action_space_size)] * len(environments)
    decisions = policy._forward_eval(data, mask, ready_env_id=environments, task_id=task_id)
    # LightZero's search breaks ties at random; the history gets fixed actions, so that it can be compared.
    policy._evaluators[task_id]._last_actions.update({env: (step + env) % 2 for env in environments})
    return decisions


def infer(policy: UniZeroMultitaskPolicy, model: BoundModel, step: int, part: int) -> list[Tensor]:
    """Do the root (part 0) or one further node (part 1, 2, ...) of a search, with fixed actions."""
    shape = policy.tasks[model.task_id].observation_shape
    if part == 0:
        last, data = (torch.rand((2, *shape), generator=torch.Generator().manual_seed(s)) for s in (step - 1, step))
        output = model.initial_inference(last if step else data, [step % 2 if step else -1] * 2, data, [step] * 2)
    else:
        # A search hands back the latent state of the node that it leaves; here always the newest one.
        latent = np.stack([np.frombuffer(key, np.float32)[None] for (_, key) in list(model.cache.nodes._found)[-2:]])
        output = model.recurrent_inference([(latent, torch.tensor([part % 2, step % 2]))])
    return [output.value, output.policy_logits, output.latent_state]


def views(policy: UniZeroMultitaskPolicy) -> list[BoundModel]:
    """The models of all tasks in all modes."""
    return [
        *(actor.model for actor in policy._collectors.values()),
        *(actor.model for actor in policy._evaluators.values()),
        *policy._target_views.values(),
    ]


@pytest.mark.parametrize('mixed', [False, True])
@pytest.mark.full
def test_interleaved_tasks_and_modes_are_as_isolated_ones(mixed: bool) -> None:
    alone = []
    for index in range(9):
        policy = tiny_policy(3, mixed=mixed)
        alone.append([[infer(policy, views(policy)[index], s, p) for p in range(4)] for s in range(6)])
    policy = tiny_policy(3, mixed=mixed)
    for step in range(6):
        for part in range(4):  # the searches of all tasks and modes take turns
            for index, model in enumerate(views(policy)):
                for left, right in zip(infer(policy, model, step, part), alone[index][step][part], strict=True):
                    assert torch.equal(left, right)


def close(left: dict[int, Any], right: dict[int, Any]) -> None:
    assert left.keys() == right.keys()
    for env in left:
        # Another batch size, another order of summation.
        np.testing.assert_allclose(left[env]['predicted_value'], right[env]['predicted_value'], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            left[env]['predicted_policy_logits'], right[env]['predicted_policy_logits'], atol=1e-6
        )


def test_environments_do_not_influence_each_other() -> None:
    """Environments 0 and 1 see the same whether or not 2 and 3 take part, begin anew, or come and go."""
    with_others, without = tiny_policy(1), tiny_policy(1)
    for step in range(9):
        others = [] if step == 4 else [3] if step % 3 else [2, 3]
        together = evaluate(with_others, 0, step, [0, *others, 1])
        close({env: together[env] for env in (0, 1)}, evaluate(without, 0, step, [0, 1]))
        if step in (2, 5):
            with_others._reset_eval(env_id=[3], task_id=0)


def test_resetting_an_environment_begins_a_history() -> None:
    policy, fresh = tiny_policy(1), tiny_policy(1)
    for step in range(3):
        evaluate(policy, 0, step, [0, 1])
    policy._reset_eval(env_id=1, task_id=0)
    again = evaluate(policy, 0, 7, [0, 1])
    first = evaluate(fresh, 0, 7, [0, 1])
    close({1: again[1]}, {1: first[1]})
    assert again[0]['predicted_value'].item() != pytest.approx(first[0]['predicted_value'].item(), rel=1e-4)
    policy._reset_eval(env_id=1, reset_init_data=False, task_id=0)
    policy._reset_eval()
    close(evaluate(policy, 0, 7, [0, 1]), first)


def test_history_is_rebuilt_from_the_last_observation_after_a_learn_phase() -> None:
    policy = tiny_policy(1)
    evaluate(policy, 0, 0, [0, 1])
    expected_policy = tiny_policy(1)
    expected = [evaluate(expected_policy, 0, step, [0, 1]) for step in range(2)][1]
    policy.end_learn_phase()
    close(evaluate(policy, 0, 1, [0, 1]), expected)


@pytest.mark.full
def test_values_are_those_of_lightzeros_own_inference() -> None:
    """Roots and a chain of nodes, for several steps, until histories are shortened at every step."""
    policy = tiny_policy(2)
    world_model = policy._model.world_model
    policy._model.eval()
    WorldModel._initialize_transformer_keys_values(world_model)
    world_model.precompute_pos_emb_diff_kv()
    ours = BoundModel(policy._model, 1)
    theirs = InferenceCache()
    rng = np.random.default_rng(0)
    last, actions = observations(policy, 1, 2, 0), [-1, -1]
    for step in range(6):
        data = observations(policy, 1, 2, step)
        output = ours.initial_inference(last, actions, data, [step, step])
        with world_model.bound(1, theirs), torch.no_grad():
            obs_act = {'obs': last, 'action': actions, 'current_obs': data}
            _, latent, _, logits, value = WorldModel.forward_initial_inference(world_model, obs_act, np.zeros(2))
        torch.testing.assert_close(output.latent_state, latent)
        torch.testing.assert_close(output.policy_logits, logits.squeeze(1))
        torch.testing.assert_close(output.value, value.squeeze(1))
        state = output.latent_state.numpy()
        for simulation in range(4):
            taken = torch.from_numpy(rng.integers(0, 3, 2))
            output = ours.recurrent_inference([(state, taken)], simulation, [], np.zeros(2))
            with world_model.bound(1, theirs), torch.no_grad():
                _, latent, reward, logits, value = WorldModel.forward_recurrent_inference(
                    world_model, [(state, taken)], simulation, [], np.zeros(2)
                )
            torch.testing.assert_close(output.latent_state, latent)
            torch.testing.assert_close(output.reward, reward.squeeze(1))
            torch.testing.assert_close(output.policy_logits, logits.squeeze(1))
            torch.testing.assert_close(output.value, value.squeeze(1))
            # both look nodes up by the bytes of the latent state, so hand the same bytes to both
            state = latent.numpy()
            ours.cache.nodes.add(state, ours.cache.nodes._contexts[-1])
        last, actions = data, [int(action) for action in taken]


def test_the_number_of_actions_and_of_environments_has_to_fit() -> None:
    policy = tiny_policy(2)
    with pytest.raises(ValueError, match='2 observations, but 1 action masks'):
        policy._forward_eval(observations(policy, 0, 2, 0), [np.ones(3)], task_id=0)
    with pytest.raises(ValueError, match='global task id'):
        policy._forward_eval(observations(policy, 0, 1, 0), [np.ones(3)])
    with pytest.raises(ValueError, match='out of range'):
        policy._forward_eval(observations(policy, 0, 1, 0), [np.ones(3)], task_id=2)


def test_collecting_respects_the_action_mask_and_epsilon() -> None:
    policy = tiny_policy(1, eps={'eps_greedy_exploration_in_collect': True})
    mask = [np.array([0, 1, 1])] * 2
    for step in range(10):
        decisions = policy._forward_collect(observations(policy, 0, 2, step), mask, 0.5, epsilon=0.5, task_id=0)
        assert all(decision['action'] in (1, 2) for decision in decisions.values())
        assert all(len(decision['visit_count_distributions']) == 2 for decision in decisions.values())
    assert policy._collect_mcts_temperature == 0.5
    assert policy._collect_epsilon == 0.5
