"""Small tasks, policies and batches for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ding_normmon.unizero import TaskSpec, UniZeroMultitaskPolicy, multitask_policy_config

__all__ = ['random_batch', 'tiny_policy', 'tiny_tasks']

_MIXED = [((4,), 2), ((3, 7, 7), 3), ((2, 10, 10), 4)]


def tiny_tasks(n: int, mixed: bool = False) -> list[TaskSpec]:
    """Return ``n`` tasks; with ``mixed`` their observations and action spaces differ, else all are 3x5x5 and 3."""
    if mixed:
        return [TaskSpec(f'mixed{i}', *_MIXED[i % len(_MIXED)]) for i in range(n)]
    return [TaskSpec(f'task{i}', (3, 5, 5), 3) for i in range(n)]


def tiny_policy(
    num_tasks: int, task_ids: Sequence[int] | None = None, mixed: bool = False, seed: int = 0, **overrides: Any
) -> UniZeroMultitaskPolicy:
    """Return a policy that is quick to build and to step; heads are not zero, as they would be at first.

    Arguments:
        num_tasks: number of tasks of the run.
        task_ids: the tasks of this rank; all of them by default.
        mixed: see :func:`tiny_tasks`.
        seed: of the weights.
        overrides: configuration keys, nested as mappings.
    """
    settings = {
        'batch_size': 4,
        'num_simulations': 3,
        'num_unroll_steps': 4,
        'collector_env_num': 2,
        'evaluator_env_num': 2,
        'model': {'support_scale': 3, 'world_model_cfg': {'embed_dim': 16, 'num_heads': 2}},
    }
    cfg = multitask_policy_config(tiny_tasks(num_tasks, mixed), task_ids, **_merged(settings, overrides))
    torch.manual_seed(seed)
    policy = UniZeroMultitaskPolicy(cfg)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # Last layers begin at zero, which hides every mistake in the layers before.
        for model in (policy._model, policy._target_model):
            generator.manual_seed(seed)
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    policy.end_learn_phase()
    return policy


def random_batch(
    policy: UniZeroMultitaskPolicy, task_id: int, seed: int, padded: bool = True, batch_size: int | None = None
) -> tuple[list[np.ndarray], list[np.ndarray], int]:
    """Return ``(current_batch, target_batch, task_id)`` in the format of ``UniZeroGameBuffer.sample``.

    Arguments:
        policy: whose task it is.
        task_id: global task id.
        seed: of the data; independent of the task id and of the global random state.
        padded: whether some sequences end early.
        batch_size: the configured one by default.
    """
    cfg = policy.task_cfg(task_id)
    task = policy.tasks[task_id]
    rng = np.random.default_rng([seed, task_id])
    size = cfg.batch_size if batch_size is None else batch_size
    steps = cfg.num_unroll_steps
    shape = task.observation_shape
    observations = rng.random((size, (steps + 1) * shape[0], *shape[1:])).astype(np.float32)
    actions = rng.integers(0, task.action_space_size, (size, steps))
    bootstrap_actions = rng.integers(0, task.action_space_size, (size, steps))
    mask = np.ones((size, steps + 1))
    if padded:
        for row in range(1, size):  # the first sequence is whole, so that every time step has some data
            mask[row, rng.integers(1, steps + 2) :] = 0
    timestep = np.arange(steps)[None] + rng.integers(0, 50, (size, 1))
    current = [
        observations,
        actions,
        bootstrap_actions,
        mask,
        np.arange(size),
        np.ones(size),
        np.zeros(size),
        timestep,
    ]
    policies = rng.random((size, steps + 1, task.action_space_size))
    target = [
        rng.normal(size=(size, steps + 1)),
        rng.normal(size=(size, steps + 1)) * 3,
        policies / policies.sum(-1, keepdims=True),
    ]
    return current, target, task_id


def _merged(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in other.items():
        merged[key] = _merged(merged[key], value) if isinstance(value, Mapping) and key in merged else value
    return merged
