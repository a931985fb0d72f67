"""The policy's configuration: derived keys and refused values."""

from __future__ import annotations

from typing import Any

import pytest

from ding_normmon.unizero import TaskSpec, multitask_policy_config
from tests.unizero.builders import tiny_policy, tiny_tasks


def test_defaults_are_complete_and_consistent() -> None:
    cfg = multitask_policy_config(tiny_tasks(3, mixed=True), [2])
    world_model = cfg.model.world_model_cfg
    assert world_model.support_size == 2 * cfg.model.support_scale + 1
    assert world_model.max_tokens == 2 * world_model.max_blocks >= world_model.context_length
    assert world_model.action_space_size == 4
    assert cfg.task_ids == [2]
    assert cfg.monitor == {}
    assert [task.name for task in cfg.tasks] == ['mixed0', 'mixed1', 'mixed2']


def test_nested_overrides_and_free_form_monitor() -> None:
    cfg = multitask_policy_config(
        tiny_tasks(1), model={'world_model_cfg': {'embed_dim': 128}}, monitor={'monitor_norm_freq': 7}
    )
    assert cfg.model.world_model_cfg.embed_dim == 128
    assert cfg.model.world_model_cfg.num_heads == 4
    assert cfg.monitor.monitor_norm_freq == 7


def test_monitor_defaults_are_not_shared_between_configurations() -> None:
    multitask_policy_config(tiny_tasks(1)).monitor.monitor_norm_freq = 3
    assert multitask_policy_config(tiny_tasks(1)).monitor == {}


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        ({'learning_rat': 1}, r'learning_rat: no such key; the nearest is learning_rate'),
        ({'model': {'world_model_cfg': {'embed_dims': 1}}}, r'embed_dims: no such key; .*world_model_cfg\.embed_dim$'),
        ({'embed_dim': 1}, r'embed_dim: no such key; the nearest is model\.world_model_cfg\.embed_dim'),
        ({'model': 3}, r'model: must be a mapping'),
        ({'model': {'world_model_cfg': {'context_length': 2}}}, r'context_length: .*at least 4.*got 2'),
        ({'model': {'world_model_cfg': {'context_length': 7}}}, r'context_length: .*even.*got 7'),
        ({'model': {'world_model_cfg': {'max_tokens': 8}}}, r'max_tokens: .*derived from others'),
        ({'model': {'world_model_cfg': {'embed_dim': 30}}}, r'embed_dim: 30 must be a multiple'),
        ({'model': {'world_model_cfg': {'rotary_emb': True}}}, r'rotary_emb: .*supports False only'),
        ({'num_unroll_steps': 3}, r'num_unroll_steps: must be at least 4, got 3'),
        ({'accumulation_steps': 2}, r'accumulation_steps: .*supports 1 only, got 2'),
        ({'batch_size': [4]}, r'batch_size: .*list of 2'),
        ({'batch_size': 0}, r'batch_size: .*positive'),
        ({'task_loss_weight': [1.0]}, r'task_loss_weight: .*list of 2'),
        ({'task_ids': [2]}, r'task_ids: 2 is out of range; valid ids are 0 to 1'),
        ({'task_ids': [-1]}, r'task_ids: -1 is out of range'),
        ({'task_ids': [0, 0]}, r'task_ids: 0 is listed twice'),
    ],
)
def test_what_is_refused(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        multitask_policy_config(tiny_tasks(2), **overrides)


def test_lightzeros_image_encoder_has_one_width() -> None:
    with pytest.raises(ValueError, match=r'num_channels: the encoder of game supports 64 only, got 256'):
        multitask_policy_config([TaskSpec('game', (3, 64, 64), 2)], model={'num_channels': 256})


def test_shared_head_needs_equal_action_spaces() -> None:
    with pytest.raises(ValueError, match=r'share_head: .*\[2, 3\]'):
        multitask_policy_config(tiny_tasks(2, mixed=True), model={'world_model_cfg': {'share_head': True}})


@pytest.mark.parametrize('shape', [(), (7, 7), (0,), (3, 0, 7)])
def test_observation_shapes_that_are_neither_vector_nor_image(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match='observation_shape'):
        TaskSpec('a', shape, 2)


def test_batch_sizes_are_by_global_task_id() -> None:
    policy = tiny_policy(3, [2, 0], batch_size=[4, 5, 6])
    assert [policy.task_cfg(task_id).batch_size for task_id in range(3)] == [4, 5, 6]
    with pytest.raises(ValueError, match='3 is out of range'):
        policy.task_cfg(3)


def test_vector_tasks_get_what_lightzero_expects_of_vectors() -> None:
    policy = tiny_policy(2, mixed=True)
    assert policy.task_cfg(0).model.model_type == 'mlp'
    assert policy.task_cfg(0).model.observation_shape == 4
    assert policy.task_cfg(1).model.model_type == 'conv'
    assert policy.task_cfg(1).model.observation_shape == [3, 7, 7]
    assert policy.task_cfg(1).model.image_channel == 3
