"""LightZero's own policies, small, with random batches in the format of its replay buffers."""

from __future__ import annotations

import contextlib
import io
import logging
from typing import Any

import numpy as np
from ding.utils import deep_merge_dicts
from easydict import EasyDict

OBSERVATION, ACTIONS, UNROLL, BATCH = 4, 2, 5, 6


def unizero_policy(**overrides: Any) -> Any:
    """Return LightZero 0.2.0's single-task UniZero policy on vector observations."""
    level = logging.getLogger().level
    from lzero.policy.unizero import UniZeroPolicy

    logging.getLogger().setLevel(level)

    world_model = dict(
        max_blocks=8, max_tokens=16, context_length=8, context_length_for_recurrent=8, device='cpu',
        action_space_size=ACTIONS, num_layers=1, num_heads=2, embed_dim=16, group_size=8, env_num=2, obs_type='vector',
        norm_type='LN', rotary_emb=False, support_size=21, policy_entropy_weight=1e-4, max_cache_size=100,
    )  # fmt: skip
    config = deep_merge_dicts(
        UniZeroPolicy.default_config(),
        EasyDict(
            model=dict(
                observation_shape=OBSERVATION, action_space_size=ACTIONS, norm_type='LN', model_type='mlp',
                support_scale=10, reward_support_size=21, value_support_size=21, frame_stack_num=1,
                self_supervised_learning_loss=True, categorical_distribution=True, world_model_cfg=world_model,
            ),
            cuda=False, device='cpu', batch_size=BATCH, num_unroll_steps=UNROLL, num_simulations=2, use_wandb=False,
            collector_env_num=2, evaluator_env_num=2, multi_gpu=False, grad_clip_value=0.5, learning_rate=1e-3,
        ),
    )  # fmt: skip
    config = EasyDict(deep_merge_dicts(config, EasyDict(overrides)))
    with contextlib.redirect_stdout(io.StringIO()):
        return UniZeroPolicy(config, enable_field=['learn', 'collect', 'eval'])


def unizero_batch(iteration: int, seed: int = 0) -> list[Any]:
    """Return one learner batch; the last steps of some samples are padding."""
    generator = np.random.default_rng(seed)
    steps = UNROLL + 1
    mask = np.ones((BATCH, steps), dtype=np.float32)
    mask[0, 2:] = 0.0
    mask[3, 3:] = 0.0
    policy = generator.dirichlet(np.ones(ACTIONS), size=(BATCH, steps)).astype(np.float32)
    current = [
        generator.normal(size=(BATCH, steps * OBSERVATION)).astype(np.float32),
        generator.integers(0, ACTIONS, size=(BATCH, UNROLL)),
        generator.integers(0, ACTIONS, size=(BATCH, UNROLL)),
        mask,
        np.arange(BATCH),
        np.ones(BATCH, dtype=np.float32),
        np.zeros(BATCH),
        np.tile(np.arange(UNROLL), (BATCH, 1)),
    ]
    target = [
        generator.normal(size=(BATCH, steps)).astype(np.float32),
        generator.normal(size=(BATCH, steps)).astype(np.float32),
        policy,
    ]
    return [current, target, iteration]
