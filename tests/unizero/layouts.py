"""What the ranks of `test_layouts.py` do; in a module of its own, so that they do not import the tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from ding_normmon.core.step import InertLearnerStep
from ding_normmon.unizero import UniZeroMultitaskPolicy, multitask_policy_config
from tests.unizero.builders import random_batch, tiny_policy, tiny_tasks

__all__ = ['BATCH_SIZES', 'all_on_two_ranks', 'train']

BATCH_SIZES = [3, 5, 4, 6]


class GradientRecorder(InertLearnerStep):
    """Copies the gradients as they are before clipping."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.gradients: dict[str, np.ndarray | None] = {}

    def backward_end(self) -> None:
        self.gradients = {
            name: None if parameter.grad is None else parameter.grad.numpy().copy()
            for name, parameter in self.model.named_parameters()
        }


def train(
    rank: int, layouts: Sequence[Sequence[Sequence[int]]], mixed: bool, steps: int, settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """Train under each of several layouts, from the same weights on the same batches, in float64.

    Returns:
        Per layout: gradients of the first step, weights after the last, the metrics of all steps, and the names of
        private parameters by task id.
    """
    torch.set_default_dtype(torch.float64)
    results = []
    for layout in layouts:
        policy = _policy(layout, rank, mixed, settings)
        recorder = GradientRecorder(policy._model)
        outputs, first = [], {}
        for seed in range(steps):
            policy.learner_step = recorder
            outputs.append(policy._forward_learn(_data(policy, seed)))
            first = first or recorder.gradients
        names = {id(parameter): name for name, parameter in policy._model.named_parameters()}
        results.append(
            {
                'gradients': first,
                'weights': {name: p.detach().numpy().copy() for name, p in policy._model.named_parameters()},
                'target': {name: p.detach().numpy().copy() for name, p in policy._target_model.named_parameters()},
                'outputs': outputs,
                'private': {
                    task_id: [names[id(parameter)] for parameter in parameters]
                    for task_id, parameters in policy._model.private_parameters().items()
                },
            }
        )
    return results


def save(rank: int, layout: Sequence[Sequence[int]], path: str) -> None:
    """Train two steps under a layout, in float64, and let rank 0 save a checkpoint."""
    torch.set_default_dtype(torch.float64)
    policy = _policy(layout, rank, True, {})
    for seed in range(2):
        policy._forward_learn(_data(policy, seed))
    policy.gather_private_parameters()
    if rank == 0:
        torch.save(policy._state_dict_learn(), path)


def initial_weights(rank: int) -> list[np.ndarray]:
    """Build a policy from a random state of the rank's own."""
    torch.manual_seed(rank)
    policy = UniZeroMultitaskPolicy(multitask_policy_config(tiny_tasks(2), [rank]))
    models = (policy._model, policy._target_model)
    return [parameter.detach().numpy() for model in models for parameter in model.parameters()]


def claim_one_task_twice() -> str:
    """Build a policy whose only task is on every rank, and return the error message."""
    with pytest.raises(ValueError, match='one rank only') as error:
        UniZeroMultitaskPolicy(multitask_policy_config(tiny_tasks(2), [0]))
    return str(error.value)


def all_on_two_ranks(
    rank: int, layouts: Sequence[Sequence[Sequence[int]]], steps: int, settings: dict[str, Any], path: str
) -> dict[str, Any]:
    """Do everything that needs two ranks: starting them takes longer than the work."""
    result: dict[str, Any] = {'initial': initial_weights(rank), 'refusal': claim_one_task_twice()}
    for mixed in (False, True):
        result[f'mixed={mixed}'] = train(rank, layouts, mixed, steps, settings)
    save(rank, [[1], [2, 0]], path)
    return result


def _policy(
    layout: Sequence[Sequence[int]], rank: int, mixed: bool, settings: dict[str, Any]
) -> UniZeroMultitaskPolicy:
    return tiny_policy(sum(map(len, layout)), layout[rank], mixed=mixed, **settings)


def _data(policy: UniZeroMultitaskPolicy, seed: int) -> list[Any]:
    """One batch per local task; in the second step task 1 has none."""
    return [
        random_batch(policy, task_id, seed, batch_size=BATCH_SIZES[task_id])
        for task_id in policy.task_ids
        if not (seed == 1 and task_id == 1)
    ]
