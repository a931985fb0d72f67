"""Real multi-task policies of two sizes and random batches for them."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import torch

from ding_normmon.unizero import TaskSpec, UniZeroMultitaskPolicy, multitask_policy_config

__all__ = ['SIZES', 'learner_batches', 'make_policy']

SIZES: dict[str, dict[str, Any]] = {
    # The default configuration of `make train` with one more transformer layer.
    'small': {
        'observation_shape': (20, 7, 7),
        'action_space_size': 7,
        'batch_size': 64,
        'model': {'world_model_cfg': {'embed_dim': 64, 'num_layers': 2, 'num_heads': 4}},
    },
    # ScaleZero's: images of 64 x 64, embed 768. The batch is reduced so that a step on a CPU ends.
    'scalezero': {
        'observation_shape': (3, 64, 64),
        'action_space_size': 18,
        'batch_size': 4,
        'model': {'support_scale': 50, 'world_model_cfg': {'embed_dim': 768, 'num_layers': 4, 'num_heads': 8}},
    },
}


def make_policy(size: str, num_tasks: int, cuda: bool = False, batch_size: int | None = None) -> UniZeroMultitaskPolicy:
    """Return a policy of one of :data:`SIZES` that trains ``num_tasks`` tasks on this rank."""
    settings = dict(SIZES[size])
    shape, actions = settings.pop('observation_shape'), settings.pop('action_space_size')
    if batch_size is not None:
        settings['batch_size'] = batch_size
    tasks = [TaskSpec(f'task{task_id}', shape, actions) for task_id in range(num_tasks)]
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        return UniZeroMultitaskPolicy(multitask_policy_config(tasks, cuda=cuda, **settings), enable_field=['learn'])


def learner_batches(policy: UniZeroMultitaskPolicy, seed: int = 0) -> list[Any]:
    """Return one random batch per task, in the format of ``UniZeroGameBuffer.sample``; a tenth of it is padding."""
    rng = np.random.default_rng(seed)
    return [_batch(policy, task_id, rng) for task_id in policy.task_ids]


def _batch(policy: UniZeroMultitaskPolicy, task_id: int, rng: np.random.Generator) -> tuple[list[Any], list[Any], int]:
    cfg, task = policy.task_cfg(task_id), policy.tasks[task_id]
    size, steps = cfg.batch_size, cfg.num_unroll_steps
    channels, *rest = task.observation_shape
    mask = np.ones((size, steps + 1))
    mask[: size // 5, (steps + 1) // 2 :] = 0
    policies = rng.random((size, steps + 1, task.action_space_size))
    current = [
        rng.random((size, (steps + 1) * channels, *rest)).astype(np.float32),
        rng.integers(0, task.action_space_size, (size, steps)),
        rng.integers(0, task.action_space_size, (size, steps)),
        mask,
        np.arange(size),
        np.ones(size),
        np.zeros(size),
        np.arange(steps)[None] + rng.integers(0, 50, (size, 1)),
    ]
    values = rng.normal(size=(2, size, steps + 1))
    return current, [values[0], values[1], policies / policies.sum(-1, keepdims=True)], task_id
