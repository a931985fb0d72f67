"""The policy's configuration: LightZero's defaults, then ours, then the user's, then the keys derived from them."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ding.utils import deep_merge_dicts
from easydict import EasyDict
from lzero.policy.unizero import UniZeroPolicy

from ding_normmon.unizero.task_spec import TaskSpec, check_task_ids

__all__ = ['DEFAULTS', 'flatten', 'multitask_policy_config', 'single_task_config', 'validate_policy_config']

DEFAULTS: dict[str, Any] = {
    'type': 'unizero_multitask',
    'cuda': False,
    # --- tasks: filled in by `multitask_policy_config` ---
    'tasks': [],
    'task_ids': [],
    # Weight of each task's loss, by global task id; None: 1 for every task.
    'task_loss_weight': None,
    # Configuration of the monitor; read by `NormMonitor`, not by the policy.
    'monitor': {},
    # --- collecting ---
    'collector_env_num': 8,
    'evaluator_env_num': 4,
    'game_segment_length': 20,
    'num_simulations': 8,
    'replay_buffer_size': 100_000,
    'reanalyze_ratio': 0.0,
    'reanalyze_outdated': True,
    'use_root_value': False,
    # Temperature of the visit counts: falls linearly from start to end within this many learner iterations.
    'temperature': {'start': 1.0, 'end': 0.35, 'decay_iterations': 1000},
    # --- learning ---
    'batch_size': 64,
    'update_per_collect': 20,
    'num_unroll_steps': 5,
    'td_steps': 5,
    'discount_factor': 0.98,
    'learning_rate': 1e-3,
    'weight_decay': 1e-2,  # AdamW's default; LightZero's 1e-4 has no effect within a few thousand steps
    'model': {
        'norm_type': 'LN',
        'support_scale': 10,
        'world_model_cfg': {
            'share_head': False,
            'embed_dim': 64,
            'num_layers': 1,
            'num_heads': 4,
            'context_length': 8,
            'embed_pdrop': 0.0,
            'resid_pdrop': 0.0,
            'attn_pdrop': 0.0,
        },
    },
}
"""Changes to ``UniZeroPolicy.default_config()``, with which small tasks are learnt in minutes."""

FREE_FORM = ('monitor',)
"""Keys under which any key is accepted; their readers check them."""

FIXED: dict[str, Any] = {
    'model.continuous_action_space': False,
    'model.frame_stack_num': 1,
    'model.norm_type': 'LN',  # BatchNorm's running statistics would differ from rank to rank
    'model.world_model_cfg.continuous_action_space': False,
    'model.world_model_cfg.rotary_emb': False,
    'model.world_model_cfg.analysis_dormant_ratio': False,
    'model.world_model_cfg.tokens_per_block': 2,
    'model.world_model_cfg.latent_recon_loss_weight': 0.0,
    'model.world_model_cfg.perceptual_loss_weight': 0.0,
    'mcts_ctree': True,
    'optim_type': 'AdamW',
    'accumulation_steps': 1,
    'use_augmentation': False,
    'cos_lr_scheduler': False,
    'piecewise_decay_lr_scheduler': False,
    'analysis_sim_norm': False,
    'multi_gpu': False,  # DI-engine's gradient averaging; ours needs no switch
}
"""Keys of LightZero's configuration for which the multi-task policy supports only one value."""

DERIVED = (
    'model.world_model_cfg.max_blocks',
    'model.world_model_cfg.max_tokens',
    'model.world_model_cfg.support_size',
    'model.world_model_cfg.env_num',
    'model.world_model_cfg.num_simulations',
    'model.world_model_cfg.action_space_size',
    'model.world_model_cfg.device',
    'model.world_model_cfg.norm_type',
    'model.world_model_cfg.obs_type',
    'model.observation_shape',
    'model.action_space_size',
    'model.model_type',
    'model.image_channel',
    'device',
)
"""Keys that are derived from others and cannot be set."""


def multitask_policy_config(
    tasks: Sequence[TaskSpec], task_ids: Sequence[int] | None = None, **overrides: Any
) -> EasyDict:
    """Return a complete configuration of :class:`UniZeroMultitaskPolicy`.

    Arguments:
        tasks: all tasks of the run; the position of a task is its global id.
        task_ids: global ids of the tasks that this rank trains; None: all of them; may be empty.
        overrides: any key of the configuration; nested keys as nested mappings.

    Raises:
        ValueError: an unknown key (the message names the nearest valid one), an invalid value, or bad task ids.

    Example:
        >>> tasks = [TaskSpec('a', (3, 7, 7), 7), TaskSpec('b', (3, 7, 7), 4)]
        >>> cfg = multitask_policy_config(tasks, [1], batch_size=[32, 16], model=dict(support_scale=5))
        >>> cfg.model.world_model_cfg.support_size, cfg.model.world_model_cfg.action_space_size
        (11, 7)
    """
    if not tasks:
        raise ValueError('tasks: at least one task is required')
    cfg: dict[str, Any] = deep_merge_dicts(dict(UniZeroPolicy.default_config()), copy.deepcopy(DEFAULTS))
    _check_keys(cfg, overrides)
    cfg = deep_merge_dicts(cfg, copy.deepcopy(overrides))
    cfg['tasks'] = [
        {
            'name': task.name,
            'observation_shape': list(task.observation_shape),
            'action_space_size': task.action_space_size,
        }
        for task in tasks
    ]
    cfg['task_ids'] = check_task_ids(range(len(tasks)) if task_ids is None else task_ids, len(tasks))
    result = EasyDict(cfg)
    _derive(result, tasks)
    validate_policy_config(result)
    return result


def single_task_config(cfg: EasyDict, task_id: int) -> EasyDict:
    """Return the configuration of one task alone, as LightZero's search, game segments and replay buffer read it.

    Arguments:
        cfg: a complete multi-task configuration.
        task_id: global task id.

    Raises:
        ValueError: the task id is out of range.
    """
    check_task_ids([task_id], len(cfg.tasks))
    task = cfg.tasks[task_id]
    single = copy.deepcopy(cfg)
    single.task_id = task_id
    shape = list(task.observation_shape)
    is_image = len(shape) == 3
    single.model.model_type = 'conv' if is_image else 'mlp'
    single.model.observation_shape = shape if is_image else shape[0]
    single.model.image_channel = shape[0] if is_image else 1
    single.model.action_space_size = task.action_space_size
    single.model.world_model_cfg.action_space_size = task.action_space_size
    single.model.world_model_cfg.obs_type = 'image' if is_image else 'vector'
    single.batch_size = cfg.batch_size if isinstance(cfg.batch_size, int) else cfg.batch_size[task_id]
    return single


def validate_policy_config(cfg: EasyDict) -> None:
    """Check the values of a complete configuration.

    Raises:
        ValueError: an invalid value; the message names the key, the value and what is valid.
    """
    num_tasks = len(cfg.tasks)
    world_model = cfg.model.world_model_cfg
    flat = flatten(cfg)
    for path, supported in FIXED.items():
        value = flat[path]
        if value != supported:
            raise ValueError(f'{path}: the multi-task policy supports {supported!r} only, got {value!r}')
    if world_model.context_length < 4 or world_model.context_length % 2:
        # Below 4 there is room only for the current step, and LightZero keeps no history at all; with an odd length
        # observations and actions would swap places when a history is shortened.
        raise ValueError(
            'model.world_model_cfg.context_length: must be an even number of at least 4 (an observation and an action '
            f'per time step), got {world_model.context_length}'
        )
    if world_model.embed_dim % world_model.num_heads or world_model.embed_dim % world_model.group_size:
        raise ValueError(
            f'model.world_model_cfg.embed_dim: {world_model.embed_dim} must be a multiple of num_heads '
            f'({world_model.num_heads}) and of group_size ({world_model.group_size})'
        )
    images = [task.name for task in cfg.tasks if len(task.observation_shape) == 3 and task.observation_shape[-1] >= 64]
    if images and cfg.model.num_channels != 64:
        # LightZero's encoder hard-codes this size in its last layer and would fail at the first forward pass.
        raise ValueError(
            f'model.num_channels: the encoder of {images[0]} supports 64 only, got {cfg.model.num_channels}'
        )
    if cfg.num_unroll_steps < 4:
        # LightZero's loss reads a middle step of a sequence that it has shortened twice.
        raise ValueError(f'num_unroll_steps: must be at least 4, got {cfg.num_unroll_steps}')
    sizes = [cfg.batch_size] * num_tasks if isinstance(cfg.batch_size, int) else list(cfg.batch_size)
    if len(sizes) != num_tasks or any(not isinstance(size, int) or size < 1 for size in sizes):
        raise ValueError(
            f'batch_size: must be a positive integer, or a list of {num_tasks} of them, one per task of the whole run; '
            f'got {cfg.batch_size}'
        )
    weights = cfg.task_loss_weight
    if weights is not None and (len(weights) != num_tasks or any(weight < 0 for weight in weights)):
        raise ValueError(
            f'task_loss_weight: must be None or a list of {num_tasks} non-negative numbers, one per task of the whole '
            f'run; got {weights}'
        )
    action_space_sizes = {task.action_space_size for task in cfg.tasks}
    if world_model.share_head and len(action_space_sizes) > 1:
        raise ValueError(
            'model.world_model_cfg.share_head: a shared head needs the same action space size for all tasks, got '
            f'{sorted(action_space_sizes)}'
        )
    check_task_ids(cfg.task_ids, num_tasks)


def _derive(cfg: EasyDict, tasks: Sequence[TaskSpec]) -> None:
    """Fill in the keys that are derived from others."""
    model, world_model = cfg.model, cfg.model.world_model_cfg
    cfg.device = world_model.device = 'cuda' if cfg.cuda and torch.cuda.is_available() else 'cpu'
    # A training sequence has one observation and one action per unrolled step; a history may be longer.
    world_model.max_blocks = max(cfg.num_unroll_steps, -(-world_model.context_length // 2))
    world_model.max_tokens = 2 * world_model.max_blocks
    world_model.support_size = 2 * model.support_scale + 1
    world_model.env_num = max(cfg.collector_env_num, cfg.evaluator_env_num)
    world_model.num_simulations = cfg.num_simulations
    world_model.norm_type = model.norm_type
    world_model.obs_type = 'image'
    model.action_space_size = world_model.action_space_size = max(task.action_space_size for task in tasks)
    model.observation_shape = list(tasks[0].observation_shape)


def _check_keys(valid: Mapping[str, Any], overrides: Mapping[str, Any], prefix: str = '') -> None:
    for key, value in overrides.items():
        path = f'{prefix}{key}'
        if path in DERIVED or path in ('tasks', 'task_ids'):
            raise ValueError(f'{path}: this key is derived from others and cannot be set')
        if key not in valid:
            nearest = difflib.get_close_matches(str(key), list(valid), n=1, cutoff=0.0)
            elsewhere = [found for found in flatten(valid, prefix) if found.rpartition('.')[2] == key]
            suggestion = elsewhere[0] if elsewhere else f'{prefix}{nearest[0]}' if nearest else 'none'
            raise ValueError(f'{path}: no such key; the nearest is {suggestion}')
        if isinstance(valid[key], Mapping) and path not in FREE_FORM:
            if not isinstance(value, Mapping):
                raise ValueError(f'{path}: must be a mapping, got {value!r}')
            _check_keys(valid[key], value, f'{path}.')


def flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Return a nested configuration as one level with dotted keys.

    Example:
        >>> flatten({'a': 1, 'b': {'c': 2}})
        {'a': 1, 'b.c': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f'{prefix}{key}'
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f'{name}.'))
        else:
            flat[name] = value
    return flat
