"""LightZero's own policies, small, with random batches in the format of its replay buffers."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import numpy as np
from ding.utils import deep_merge_dicts
from easydict import EasyDict

OBSERVATION, ACTIONS, UNROLL, BATCH = 4, 3, 4, 6
IMAGE = (2, 5, 5)
CONTINUOUS = 2
SAMPLED = 5
SUPPORT = 10
# The package reads the scale, its successors the ranges.
SUPPORTS = {
    'support_scale': SUPPORT,
    'reward_support_size': 2 * SUPPORT + 1,
    'value_support_size': 2 * SUPPORT + 1,
    'reward_support_range': (-SUPPORT, SUPPORT + 1, 1),
    'value_support_range': (-SUPPORT, SUPPORT + 1, 1),
}


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """LightZero prints its models, and sets the level of the root logger when it is imported."""
    level = logging.getLogger().level
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            yield
        finally:
            logging.getLogger().setLevel(level)


COMMON = dict(
    cuda=False, device='cpu', batch_size=BATCH, num_unroll_steps=UNROLL, num_simulations=2, use_wandb=False,
    collector_env_num=2, evaluator_env_num=2, multi_gpu=False, grad_clip_value=0.5, learning_rate=1e-3,
)  # fmt: skip


def build(module: str, name: str, model: dict[str, Any], **overrides: Any) -> Any:
    """Return a policy with its default configuration, ours on top of it."""
    with quietly():
        policy_class = getattr(import_module(f'lzero.policy.{module}'), name)
        config = deep_merge_dicts(policy_class.default_config(), EasyDict(model=model, **COMMON))
        config = EasyDict(deep_merge_dicts(config, EasyDict(overrides)))
        return policy_class(config, enable_field=['learn', 'collect', 'eval'])


def world_model_config(actions: int, **overrides: Any) -> dict[str, Any]:
    return dict(
        max_blocks=8, max_tokens=16, context_length=8, context_length_for_recurrent=8, device='cpu',
        action_space_size=actions, num_layers=1, num_heads=2, embed_dim=16, group_size=8, env_num=2, obs_type='vector',
        norm_type='LN', rotary_emb=False, support_size=2 * SUPPORT + 1, policy_entropy_weight=1e-4, max_cache_size=100,
        num_unroll_steps=UNROLL, **overrides,
    )  # fmt: skip


def unizero_model(actions: int, **world_model: Any) -> dict[str, Any]:
    return dict(
        observation_shape=OBSERVATION, action_space_size=actions, norm_type='LN', model_type='mlp',
        **SUPPORTS, frame_stack_num=1, self_supervised_learning_loss=True, categorical_distribution=True,
        world_model_cfg=world_model_config(actions, **world_model),
    )  # fmt: skip


def unizero(**overrides: Any) -> Any:
    return build('unizero', 'UniZeroPolicy', unizero_model(ACTIONS), **overrides)


def sampled_unizero(**overrides: Any) -> Any:
    continuous = {
        'continuous_action_space': True,
        'num_of_sampled_actions': SAMPLED,
        'sigma_type': 'conditioned',
        'bound_type': None,
        'fixed_sigma_value': 0.5,
        'policy_loss_type': 'kl',
    }
    model = unizero_model(CONTINUOUS, **continuous)
    return build('sampled_unizero', 'SampledUniZeroPolicy', {**model, **continuous}, **overrides)


def muzero_model(image: bool = False) -> dict[str, Any]:
    shapes: dict[str, Any] = {'observation_shape': OBSERVATION, 'model_type': 'mlp', 'latent_state_dim': 16}
    if image:
        shapes = {'observation_shape': IMAGE, 'image_channel': IMAGE[0], 'model_type': 'conv', 'num_channels': 8}
        shapes['downsample'] = False
    return dict(
        action_space_size=ACTIONS, **SUPPORTS, frame_stack_num=1, self_supervised_learning_loss=True,
        categorical_distribution=True, norm_type='BN', proj_hid=8, proj_out=8, pred_hid=8, pred_out=8,
        discrete_action_encoding_type='one_hot', res_connection_in_dynamics=True, last_linear_layer_init_zero=False,
        **shapes,
    )  # fmt: skip


def muzero(**overrides: Any) -> Any:
    return build('muzero', 'MuZeroPolicy', muzero_model(), optim_type='Adam', ssl_loss_weight=2, **overrides)


def muzero_image(**overrides: Any) -> Any:
    return build('muzero', 'MuZeroPolicy', muzero_model(image=True), optim_type='SGD', ssl_loss_weight=2, **overrides)


def efficientzero(**overrides: Any) -> Any:
    model = {**muzero_model(), 'lstm_hidden_size': 8}
    return build('efficientzero', 'EfficientZeroPolicy', model, optim_type='Adam', lstm_horizon_len=3, **overrides)


def efficientzero_image(**overrides: Any) -> Any:
    model = {**muzero_model(image=True), 'lstm_hidden_size': 8}
    return build('efficientzero', 'EfficientZeroPolicy', model, optim_type='Adam', lstm_horizon_len=3, **overrides)


def gumbel_muzero(**overrides: Any) -> Any:
    return build(
        'gumbel_muzero', 'GumbelMuZeroPolicy', muzero_model(), optim_type='Adam', ssl_loss_weight=2, **overrides
    )


POLICIES: dict[str, Callable[..., Any]] = {
    'unizero': unizero,
    'sampled_unizero': sampled_unizero,
    'muzero': muzero,
    'muzero_image': muzero_image,
    'efficientzero': efficientzero,
    'efficientzero_image': efficientzero_image,
    'gumbel_muzero': gumbel_muzero,
}
"""Name of a policy of the published package, and how a small one is built."""

SHAPES: dict[str, tuple[int, ...]] = {name: IMAGE if name.endswith('image') else (OBSERVATION,) for name in POLICIES}
"""Shape of one observation of each policy."""


def padding() -> np.ndarray:
    """Return a mask (B, T + 1) as LightZero's buffers make it: the last column is always padding."""
    mask = np.ones((BATCH, UNROLL + 1), dtype=np.float32)
    mask[:, -1] = 0.0
    mask[0, 2:] = 0.0
    mask[3, 1:] = 0.0
    return mask


def batch(name: str, iteration: int, seed: int | None = None) -> list[Any]:
    """Return what ``_forward_learn`` of the policy of that name takes; the last steps of some samples are padding."""
    generator = np.random.default_rng(iteration if seed is None else seed)
    steps = UNROLL + 1
    mask = padding()

    def normal(*shape: int) -> np.ndarray:
        return generator.normal(size=shape).astype(np.float32)

    shape = SHAPES[name]
    observations, actions = (
        normal(BATCH, steps * shape[0], *shape[1:]),
        generator.integers(0, ACTIONS, size=(BATCH, UNROLL)),
    )
    targets = [normal(BATCH, steps), normal(BATCH, steps)]
    indices, weights, times = np.arange(BATCH), np.ones(BATCH, dtype=np.float32), np.zeros(BATCH)
    if name == 'sampled_unizero':
        actions = normal(BATCH, UNROLL, CONTINUOUS)
        sampled = normal(BATCH, steps, SAMPLED, CONTINUOUS)
        policy = generator.dirichlet(np.ones(SAMPLED), size=(BATCH, steps)).astype(np.float32)
        timesteps = np.tile(np.arange(UNROLL), (BATCH, 1))
        current = [observations, actions, sampled, actions, mask, indices, weights, times, timesteps]
        return [current, [*targets, policy], iteration]
    policy = generator.dirichlet(np.ones(ACTIONS), size=(BATCH, steps)).astype(np.float32)
    if name == 'unizero':
        timesteps = np.tile(np.arange(UNROLL), (BATCH, 1))
        current = [observations, actions, actions, mask, indices, weights, times, timesteps]
        return [current, [*targets, policy], iteration]
    improved = [policy] if name == 'gumbel_muzero' else []
    return [[observations, actions, *improved, mask, indices, weights, times], [*targets, policy]]


def learn(policy: Any, name: str, iteration: int) -> dict[str, Any]:
    """Do one learner step on a random batch."""
    with quietly():
        return policy._forward_learn(batch(name, iteration))
