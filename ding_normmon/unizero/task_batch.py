"""Converts a replay buffer's batch of one task to the input of the world model's loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lzero.policy import DiscreteSupport, phi_transform, scalar_transform
from numpy.typing import NDArray
from torch import Tensor

from ding_normmon.unizero.task_spec import TaskSpec

__all__ = ['TaskBatch', 'prepare_task_batch']

TaskBatch = tuple[Sequence[NDArray[Any]], Sequence[NDArray[Any]], int]
"""``(current_batch, target_batch, task_id)``; the first two as ``UniZeroGameBuffer.sample`` returns them."""


def prepare_task_batch(
    current_batch: Sequence[NDArray[Any]],
    target_batch: Sequence[NDArray[Any]],
    task: TaskSpec,
    support: DiscreteSupport,
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, Any]:
    """Convert one task's batch of B sequences of T unrolled steps.

    Arguments:
        current_batch: observations (B, (T + 1) * C, H, W) or (B, (T + 1) * O), actions (B, T), bootstrap actions,
            mask (B, T + 1), indices, weights, times, time steps (B, T).
        target_batch: rewards (B, T + 1), values (B, T + 1), policies (B, T + 1, A).
        task: the task.
        support: the support of the categorical values and rewards.
        dtype: floating point type of the model.
        device: device of the model.

    Returns:
        The input of LightZero's ``compute_loss``: ``observations`` (B, T, *shape), ``actions`` (B, T), ``mask_padding``
        (B, T) bool, ``rewards`` and ``target_value`` (B, T, S), ``target_policy`` (B, T, A), ``ends``, ``timestep``.

    Raises:
        ValueError: the target policies do not have the task's number of actions.
    """
    observations, actions, _, mask, _, _, _, timestep = current_batch
    rewards, values, policies = target_batch

    def tensor(array: NDArray[Any]) -> Tensor:
        return torch.as_tensor(
            np.ascontiguousarray(array, dtype=np.float64 if dtype == torch.float64 else np.float32),
            dtype=dtype,
            device=device,
        )

    batch_size, steps = np.shape(actions)[:2]
    target_policy = tensor(policies)
    if target_policy.shape[-1] != task.action_space_size:
        raise ValueError(
            f'task {task.name!r} has {task.action_space_size} actions, but its batch has policies over '
            f'{target_policy.shape[-1]}'
        )
    mask_padding = tensor(mask)[:, :steps] == 1

    def categorical(array: NDArray[Any]) -> Tensor:
        scaled = scalar_transform(tensor(array).reshape(batch_size, -1))
        return phi_transform(support, scaled)[:, :steps].to(dtype)

    return {
        'observations': tensor(observations).reshape(batch_size, -1, *task.observation_shape)[:, :steps],
        'actions': torch.as_tensor(actions, device=device).long().reshape(batch_size, steps),
        # Read by rotary embeddings only; the parent loops over it, and an array is cheaper to loop over than a tensor.
        'timestep': np.asarray(timestep),
        'rewards': categorical(rewards),
        'target_value': categorical(values),
        'target_policy': target_policy[:, :steps],
        'mask_padding': mask_padding,
        'ends': torch.zeros(mask_padding.shape, dtype=torch.long, device=device),
    }
