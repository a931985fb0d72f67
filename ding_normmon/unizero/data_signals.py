"""What the batches of a task are like: figures that show a fault of the data before the model has learnt it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ding_normmon.learner_step import InertLearnerStep

__all__ = ['publish_data']

_SEQUENCES = 8
"""Sequences of a batch whose observations are compared, from all over it."""


def publish_data(
    step: InertLearnerStep,
    current_batch: Sequence[NDArray[Any]],
    target_batch: Sequence[NDArray[Any]],
    mask: torch.Tensor,
    task_id: int,
) -> None:
    """Publish rewards, value targets and how much successive observations differ.

    Arguments:
        step: the learner step, which is due.
        current_batch: observations (B, (T + 1) * C, ...) first, actions (B, T) second.
        target_batch: rewards (B, T + 1) and values (B, T + 1) first.
        mask: (B, T), true where a step is data and not padding.
        task_id: global task id.
    """
    batch_size, steps = np.shape(current_batch[1])[:2]

    def tensor(array: NDArray[Any]) -> torch.Tensor:
        return torch.as_tensor(np.asarray(array, dtype=np.float32), device=mask.device)

    for name, target in (('reward', target_batch[0]), ('value_target', target_batch[1])):
        values = np.asarray(target, dtype=np.float32).reshape(batch_size, -1)[:, :steps]
        step.publish(f'data/{name}', tensor(values), task_id=task_id, mask=mask)
    rows = _spread_rows(batch_size)
    frames = np.asarray(np.asarray(current_batch[0])[rows], dtype=np.float32).reshape(len(rows), steps + 1, -1)
    differences = np.subtract(frames[:, 1:], frames[:, :-1])
    change = np.add.reduce(np.abs(differences, out=differences), axis=-1) / np.float32(differences.shape[-1])
    step.publish('data/observation_change', tensor(change), task_id=task_id, mask=mask[torch.from_numpy(rows)])


@functools.cache
def _spread_rows(batch_size: int) -> NDArray[np.intp]:
    # LightZero sorts a batch by age, so that its first sequences are the oldest ones.
    return np.unique(np.linspace(0, batch_size - 1, _SEQUENCES).astype(np.intp))
