"""The multi-task policies under test: stand-ins, or the real ones where a checkout is used (``checkout_plugin.py``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lzero  # noqa: F401  adapters of LightZero's policies are looked for where it is imported
import numpy as np
import torch
from torch import Tensor, nn

from ding_normmon.core.parameter_groups import unwrap
from tests.integrations.lightzero import main_muzero_standin as muzero_standin
from tests.integrations.lightzero import main_standin as standin
from tests.integrations.lightzero.policies import (
    ACTIONS,
    BATCH,
    CONTINUOUS,
    OBSERVATION,
    SAMPLED,
    SUPPORT,
    UNROLL,
    padding,
    quietly,
)

TASKS = 3
IMAGE = (2, 5, 5)
OBSERVATIONS = [4, 5, 6]
WORLD_MODELS = ['unizero_multitask', 'sampled_unizero_multitask']
NAMES = [*WORLD_MODELS, 'muzero_multitask']
BATCHES = [tuple(range(TASKS)), (2, 0), (1,)]

SHAPES: dict[str, tuple[int, ...]] = {'unizero_multitask': (OBSERVATION,), 'muzero_multitask': IMAGE}


def unizero_multitask(share_head: bool = False, encoder_clip: float = 0.0, **options: Any) -> Any:
    encoder = nn.ModuleList([standin.Encoder(OBSERVATION)])
    model = standin.UniZeroMTModel(
        encoder, actions=ACTIONS, support=2 * SUPPORT + 1, task_num=TASKS, share_head=share_head, continuous=False
    )
    policy = standin.UniZeroMTPolicy(model, **{'task_id': 0, 'task_num': TASKS, **options})
    policy._cfg.encoder_clip = encoder_clip
    return policy


def sampled_unizero_multitask(**options: Any) -> Any:
    model = standin.UniZeroMTModel(
        standin.TaskEncoder(OBSERVATIONS), actions=CONTINUOUS, support=2 * SUPPORT + 1, task_num=TASKS,
        share_head=False, continuous=True,
    )  # fmt: skip
    return standin.UniZeroMTPolicy(model, **{'task_id': 0, 'task_num': TASKS, **options})


def muzero_multitask(**options: Any) -> Any:
    model = muzero_standin.MuZeroMTModel(IMAGE, ACTIONS, 2 * SUPPORT + 1, TASKS)
    return muzero_standin.MuZeroMTPolicy(model, IMAGE, **{'task_id': 0, 'task_num': TASKS, **options})


POLICIES: dict[str, Callable[..., Any]] = {
    'unizero_multitask': unizero_multitask,
    'sampled_unizero_multitask': sampled_unizero_multitask,
    'muzero_multitask': muzero_multitask,
}
"""Name of a multi-task policy, and how a small one is built."""


def task_mask(task_id: int) -> np.ndarray:
    """Return the mask of one task; each task has its own amount of padding."""
    mask = padding()
    mask[:task_id, 2:] = 0.0
    return mask


def one_task(name: str, iteration: int, task_id: int) -> list[Any]:
    """Return one entry of what ``_forward_learn`` takes: current batch, target batch, global task id."""
    generator = np.random.default_rng(100 * iteration + task_id)
    steps = UNROLL + 1

    def normal(*shape: int) -> np.ndarray:
        return generator.normal(size=shape).astype(np.float32)

    mask, indices, weights = task_mask(task_id), np.arange(BATCH), np.full(BATCH, 0.5 + task_id, dtype=np.float32)
    times, timesteps = np.zeros(BATCH), np.tile(np.arange(UNROLL), (BATCH, 1))
    actions = generator.integers(0, ACTIONS, size=(BATCH, UNROLL))
    # Tasks differ in scale, so that figures of one task cannot pass for those of another.
    targets = [normal(BATCH, steps) * (task_id + 1), normal(BATCH, steps) * (task_id + 1)]
    policy = generator.dirichlet(np.ones(ACTIONS), size=(BATCH, steps)).astype(np.float32)
    shape = SHAPES.get(name, (OBSERVATIONS[task_id],))
    observations = normal(BATCH, steps * shape[0], *shape[1:]) * (task_id + 1)
    if name == 'unizero_multitask':
        current = [observations, actions, actions, mask, indices, weights, times, timesteps]
    elif name == 'sampled_unizero_multitask':
        actions, sampled = normal(BATCH, UNROLL, CONTINUOUS), normal(BATCH, steps, SAMPLED, CONTINUOUS)
        policy = generator.dirichlet(np.ones(SAMPLED), size=(BATCH, steps)).astype(np.float32)
        current = [observations, actions, sampled, actions, mask, indices, weights, times, timesteps]
    else:
        current = [observations, actions, mask, indices, weights, times]
    return [current, [*targets, policy], task_id]


def batch(name: str, iteration: int, task_ids: Sequence[int] = range(TASKS)) -> list[Any]:
    """Return what ``_forward_learn`` takes: one entry per task, with its global id."""
    return [one_task(name, iteration, task_id) for task_id in task_ids]


def learn(policy: Any, name: str, iteration: int, task_ids: Sequence[int] = range(TASKS), **options: Any) -> Any:
    """Do one learner step on random batches of some tasks."""
    if name == 'unizero_multitask':
        options['train_iter'] = iteration
    with quietly():
        return policy._forward_learn(batch(name, iteration, task_ids), **options)


def seeded(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    np.random.seed(0)
    return POLICIES[name](**options)


def warmed_up(name: str, **options: Any) -> Any:
    policy = seeded(name, **options)
    for iteration in range(2):
        learn(policy, name, iteration)
    return policy


def valid_steps(task_id: int, steps: int) -> Tensor:
    return torch.from_numpy(task_mask(task_id))[:, :steps].bool()


def world_model_parts(policy: Any) -> dict[str, nn.Module]:
    world_model = unwrap(policy._learn_model).world_model
    encoder = world_model.tokenizer.encoder
    parts = {'x_token': world_model.transformer}
    parts['embeddings/obs'] = encoder[0] if isinstance(encoder, nn.ModuleList) else encoder
    for head in ('value', 'rewards', 'policy'):
        for index, module in enumerate(getattr(world_model, f'head_{head}_multi_task')):
            parts[f'logits/{head.removesuffix("s")} {index}'] = module
    return parts
