"""The modules and parameters of the model."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stdout

import pytest
import torch
from ding.utils import POLICY_REGISTRY
from torch import nn

from ding_normmon.unizero import TaskSpec, UniZeroMultitaskPolicy, multitask_policy_config
from ding_normmon.unizero.task_modules import PerTaskModules, TaskSelection
from ding_normmon.unizero.world_model import HEAD_NAMES
from tests.unizero.builders import random_batch, tiny_policy, tiny_tasks


@pytest.mark.parametrize(('mixed', 'share_head'), [(False, False), (False, True), (True, False)])
def test_every_parameter_gets_a_gradient(mixed: bool, share_head: bool) -> None:
    policy = tiny_policy(3, mixed=mixed, model={'world_model_cfg': {'share_head': share_head}})
    policy._forward_learn([random_batch(policy, task_id, 0) for task_id in range(3)])
    without = [name for name, parameter in policy._model.named_parameters() if parameter.grad is None]
    assert without == []
    assert any('tokenizer.encoder' in name for name, _ in policy._model.named_parameters())


@pytest.mark.parametrize('mixed', [False, True])
def test_no_parameter_is_listed_twice(mixed: bool) -> None:
    model = tiny_policy(2, mixed=mixed)._model
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert len(names) == len({id(parameter) for parameter in model.parameters()})
    assert all(name.startswith('world_model.') for name in names)


def test_heads_are_lists_by_global_task_id_and_a_shared_encoder_is_a_module() -> None:
    world_model = tiny_policy(3, [1])._model.world_model
    for name in HEAD_NAMES:
        assert isinstance(getattr(world_model, name), nn.ModuleList)
        assert len(getattr(world_model, name)) == 3
    assert not isinstance(world_model.tokenizer.encoder, nn.ModuleList)


def test_tasks_with_different_observations_get_an_encoder_each() -> None:
    policy = tiny_policy(3, mixed=True)
    assert len(policy._model.world_model.tokenizer.encoder) == 3
    assert [head.head_module[-1].out_features for head in policy._model.world_model.head_policy] == [2, 3, 4]
    policy._forward_learn([random_batch(policy, 1, 0)])
    encoders = policy._model.world_model.tokenizer.encoder
    has_gradient = [all(p.grad is not None for p in encoder.parameters()) for encoder in encoders]
    assert has_gradient == [False, True, False]


def test_shared_head_serves_all_tasks() -> None:
    policy = tiny_policy(3, model={'world_model_cfg': {'share_head': True}})
    world_model = policy._model.world_model
    assert all(len(getattr(world_model, name)) == 1 for name in HEAD_NAMES)
    assert all(not parameters for parameters in policy._model.private_parameters().values())
    before = world_model.head_value[0].head_module[0].weight.clone()
    policy._forward_learn([random_batch(policy, 2, 0)])
    assert not torch.equal(before, world_model.head_value[0].head_module[0].weight)


def test_heads_and_optimizer_state_of_absent_tasks_stay_as_they_are() -> None:
    policy = tiny_policy(3, weight_decay=0.1)
    before = [parameter.clone() for parameter in policy._model.private_parameters()[1]]
    for seed in range(2):
        policy._forward_learn([random_batch(policy, task_id, seed) for task_id in (0, 2)])
    after = policy._model.private_parameters()[1]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert all(parameter.grad is None for parameter in after)


def test_the_task_embedding_tells_tasks_apart() -> None:
    policy = tiny_policy(2, model={'world_model_cfg': {'share_head': True}})
    embeddings = policy._model.world_model.task_embedding
    batch = random_batch(policy, 0, 0)[:2]
    loss = [policy._task_loss(policy.learner_step, *batch, task).loss.item() for task in (0, 1)]
    assert loss[0] != loss[1]
    with torch.no_grad():
        embeddings.weight.zero_()
    policy._target_model.load_state_dict(policy._model.state_dict())
    batch = random_batch(policy, 0, 0)[:2]
    loss = [policy._task_loss(policy.learner_step, *batch, task).loss.item() for task in (0, 1)]
    assert loss[0] == loss[1]


def test_a_call_without_a_task_says_so() -> None:
    selection = TaskSelection(2)
    heads = PerTaskModules([nn.Identity(), nn.Identity()], selection)
    with pytest.raises(RuntimeError, match='without a task'):
        heads(torch.zeros(1))
    with pytest.raises(ValueError, match='out of range'):
        selection.select(2)
    with pytest.raises(ValueError, match='expected 2 modules, got 1'):
        PerTaskModules([nn.Identity()], selection)


def test_unsupported_image_sizes_are_refused() -> None:
    cfg = multitask_policy_config([TaskSpec('a', (3, 50, 50), 2)])
    with pytest.raises(ValueError, match='50x50'):
        UniZeroMultitaskPolicy(cfg)


def test_lightzeros_image_encoder_can_be_used() -> None:
    tasks = [TaskSpec('a', (3, 64, 64), 2)]
    policy = UniZeroMultitaskPolicy(multitask_policy_config(tasks, batch_size=2, num_unroll_steps=4))
    assert type(policy._model.representation_network).__name__ == 'RepresentationNetworkUniZero'
    policy._forward_learn([random_batch(policy, 0, 0)])
    assert all(parameter.grad is not None for parameter in policy._model.parameters())


def test_construction_prints_nothing() -> None:
    out = io.StringIO()
    with redirect_stdout(out):
        UniZeroMultitaskPolicy(multitask_policy_config(tiny_tasks(2)))
    assert out.getvalue() == ''


def test_registered() -> None:
    assert POLICY_REGISTRY.get('unizero_multitask') is UniZeroMultitaskPolicy


@pytest.mark.slow
@pytest.mark.full
def test_importing_keeps_the_root_log_level_and_the_top_package_light() -> None:
    code = (
        'import logging, sys\n'
        'import ding_normmon.core.step\n'
        'assert "lzero" not in sys.modules and "ding" not in sys.modules\n'
        'import ding_normmon.unizero\n'
        'assert "lzero" in sys.modules\n'
        'assert logging.getLogger().level > logging.DEBUG, logging.getLogger().level\n'
    )
    subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, timeout=60)
