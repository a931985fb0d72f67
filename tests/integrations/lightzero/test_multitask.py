"""The multi-task policies of LightZero's git main: exact per task, global task ids, inert.

They run on stand-ins; where ``LIGHTZERO_SRC`` names a checkout they run on the real policies too, see
``test_checkout.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from ding_normmon.core.parameter_groups import unwrap
from ding_normmon.integrations.lightzero import lightzero_adapter
from tests.integrations.lightzero import measure
from tests.integrations.lightzero.multitask import (
    BATCHES,
    NAMES,
    TASKS,
    WORLD_MODELS,
    learn,
    seeded,
    valid_steps,
    warmed_up,
    world_model_parts,
)
from tests.integrations.lightzero.policies import BATCH, UNROLL
from tests.sampling import sampled

SIGNALS = ('embeddings/obs', 'x_token', 'logits/value', 'logits/reward', 'logits/policy')


def rules_of(name: str) -> dict[str, str]:
    """Return the regular expressions on parameter names that stand for the groups."""
    if name == 'muzero_multitask':
        rules = {'head_reward': r'^dynamics_network\.(conv1x1_reward|norm_reward|fc_reward_head)'}
        for task in range(TASKS):
            network = rf'^prediction_networks\.{task}\.'
            rules[f'head_value_task{task}'] = rf'{network}(conv1x1_value|norm_value|fc_value)'
            rules[f'head_policy_task{task}'] = rf'{network}(conv1x1_policy|norm_policy|fc_policy)'
            rules[f'prediction_task{task}'] = network
        return {
            **rules,
            'dynamics': r'^dynamics_network\.',
            'projection': r'^(projection_network|prediction_head)\.',
            'encoder': r'^representation_network\.',
        }
    rules = {'encoder': r'^representation_network\.', 'transformer': r'^world_model\.transformer\.'}
    for head, attribute in (
        ('value', 'value'),
        ('reward', 'rewards'),
        ('policy', 'policy'),
        ('observation', 'observations'),
    ):
        for task in range(TASKS):
            # Each is listed in `head_dict` first, under which name it appears.
            rules[f'head_{head}_task{task}'] = rf'head_{attribute}_multi_task\.{task}\.'
    # The continuous policy head that was made last has a further name, which comes first.
    rules[f'head_policy_task{TASKS - 1}'] += r'|^world_model\.fc_policy_head\.'
    if name == 'sampled_unizero_multitask':
        rules |= {
            f'action_embedding_task{task}': rf'^world_model\.act_embedding_table\.{task}\.' for task in range(TASKS)
        }
    rules['action_embedding'] = r'^world_model\.act_embedding_table\.'
    return {**rules, 'position_embedding': r'^world_model\.pos_emb\.'}


# -- exact -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('task_ids', sampled(zip(BATCHES), 2))
@pytest.mark.parametrize('name', sampled(NAMES, 2))
def test_norms_equal_a_float64_computation(name: str, task_ids: Sequence[int]) -> None:
    policy = warmed_up(name)
    groups = measure.named_groups(policy._learn_model, rules_of(name))
    weights = {group: [member.detach().clone() for member in members] for group, members in groups.items()}
    with measure.gradients_before_clipping(groups) as gradients, measure.monitored(policy) as records:
        output = learn(policy, name, 2, task_ids)
    record = measure.only(records)
    measure.assert_norms(record, 'norm', weights)
    measure.assert_norms(record, 'grad', gradients)
    assert record.scalars['grad/model/_total_norm'] == pytest.approx(output['total_grad_norm_before_clip_wm'], rel=1e-5)
    # The single-task heads that the base class leaves are never taken for those of a task.
    assert 'norm/head_value/_total_norm' not in record.scalars


def expected_signals(found: Mapping[str, Mapping[int, Tensor]]) -> dict[str, float]:
    """Return the figures per task and over all tasks from the numbers of every task."""
    expected: dict[str, float] = {}
    for signal, tasks in found.items():
        for task_id, values in tasks.items():
            expected |= measure.statistics_of(signal, values, f'_task{task_id}')
        expected |= measure.statistics_of(signal, torch.cat(list(tasks.values())))
    return expected


@pytest.mark.parametrize('task_ids', sampled(zip(BATCHES), 2))
@pytest.mark.parametrize('name', sampled(WORLD_MODELS, 2))
def test_signals_of_a_world_model(name: str, task_ids: Sequence[int]) -> None:
    assert_signals_of_a_world_model(warmed_up(name), name, task_ids)


def test_analysis_passes_are_not_counted() -> None:
    """With the analysis switched on the same modules run again, on other inputs and without gradient mode."""
    name = 'unizero_multitask'
    policy = warmed_up(name)
    world_model = unwrap(policy._learn_model).world_model
    world_model.do_analysis = True
    passes = []
    handle = world_model.transformer.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    assert_signals_of_a_world_model(policy, name, range(TASKS))
    handle.remove()
    assert passes.count(True) == passes.count(False) == TASKS


def assert_signals_of_a_world_model(policy: Any, name: str, task_ids: Sequence[int]) -> None:
    with measure.Calls(world_model_parts(policy)) as calls, measure.monitored(policy) as records:
        learn(policy, name, 2, task_ids)
    found: dict[str, dict[int, Tensor]] = {signal: {} for signal in SIGNALS}
    for signal in SIGNALS:
        outputs = [output for logged, output in calls.log if logged.startswith(signal)]
        assert len(outputs) == len(task_ids)
        for task_id, output in zip(task_ids, outputs, strict=True):
            mask = valid_steps(task_id, UNROLL)
            tensor = output.detach().double().reshape(BATCH, -1, output.shape[-1])
            valid = tensor[mask.repeat_interleave(tensor.shape[1] // UNROLL, dim=1)]
            found[signal][task_id] = measure.values_of(signal, valid)
    measure.assert_signals(measure.only(records), expected_signals(found))


@pytest.mark.parametrize('task_ids', sampled(zip(BATCHES), 2))
def test_signals_of_an_unrolled_model(task_ids: Sequence[int]) -> None:
    policy = warmed_up('muzero_multitask')
    model = policy._learn_model
    parts = {'encoder': model.representation_network, 'dynamics': model.dynamics_network}
    parts |= {f'prediction {index}': network for index, network in enumerate(model.prediction_networks)}
    with measure.Calls(parts) as calls, measure.monitored(policy) as records:
        learn(policy, 'muzero_multitask', 2, task_ids)
    found: dict[str, dict[int, Tensor]] = {signal: {} for signal in SIGNALS if signal != 'x_token'}
    # Of a task: encode, predict, and T times: dynamics, predict, then both again for the self-supervised loss.
    length = 2 + 4 * UNROLL
    assert len(calls.log) == length * len(task_ids)
    for position, task_id in enumerate(task_ids):
        log = calls.log[position * length : (position + 1) * length]
        unrolled = [index for index, (part, _) in enumerate(log) if part == 'dynamics']
        predictions = [log[1][1]] + [log[index + 1][1] for index in unrolled]
        tensors = {
            'embeddings/obs': log[0][1].flatten(1).unsqueeze(1),
            'logits/policy': torch.stack([policy_logits for policy_logits, _ in predictions], dim=1),
            'logits/value': torch.stack([value for _, value in predictions], dim=1),
            'logits/reward': torch.stack([log[index][1][1] for index in unrolled], dim=1),
        }
        for signal, tensor in tensors.items():
            valid = tensor.detach().double()[valid_steps(task_id, tensor.shape[1])]
            found[signal][task_id] = measure.values_of(signal, valid)
    measure.assert_signals(measure.only(records), expected_signals(found))


def test_one_head_for_all_tasks() -> None:
    """With a shared head the lists have length 1: its norms have no task, its outputs have."""
    policy = warmed_up('unizero_multitask', share_head=True)
    with measure.monitored(policy) as records:
        learn(policy, 'unizero_multitask', 2)
    scalars = measure.only(records).scalars
    head = unwrap(policy._learn_model).world_model.head_value_multi_task
    assert len(head) == 1
    assert scalars['grad/head_value/_total_norm'] > 0
    assert not [name for name in scalars if name.startswith(('norm/head_value_task', 'grad/head_value_task'))]
    assert all(f'logits/value_task{task}/mean' in scalars for task in range(TASKS))


@pytest.mark.parametrize('name', WORLD_MODELS)
def test_losses_carry_the_global_task_id(name: str) -> None:
    """When a task drops out, LightZero's own names go by position; ours by the task that the batch is of."""
    policy = warmed_up(name)
    with measure.monitored(policy) as records:
        output = learn(policy, name, 2, (2, 0))
    scalars = measure.only(records).scalars
    for loss in ('obs', 'value'):
        theirs = [float(output[f'noreduce_{loss}_loss_task{position}']) for position in (0, 1)]
        assert scalars[f'noreduce_{loss}_loss_task2'] == pytest.approx(theirs[0], rel=1e-6)
        assert scalars[f'noreduce_{loss}_loss_task0'] == pytest.approx(theirs[1], rel=1e-6)
        assert f'noreduce_{loss}_loss_task1' not in scalars


# -- what the object says about itself -------------------------------------------------------------------------------


def test_task_ids_of_a_rank() -> None:
    policy = seeded('unizero_multitask', task_id=1, task_num=2)
    adapter = lightzero_adapter(policy)
    assert (adapter.num_tasks, adapter.task_ids) == (TASKS, (1, 2))
    # A configuration that leaves the number of all tasks where that of the rank should be.
    policy = seeded('unizero_multitask', task_id=1, task_num=TASKS)
    assert lightzero_adapter(policy).task_ids == (1, 2)
