"""Statistics of a task's batches, which show faulty data before the model has learnt from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ding_normmon.core.step import InertLearnerStep

__all__ = ['publish_data', 'valid_steps']

_SEQUENCES = 8
"""At most this many sequences of a batch, spread evenly over it, have their observations compared."""


def valid_steps(current_batch: Sequence[NDArray[Any]]) -> NDArray[np.bool_]:
    """Return which steps of a batch are data and not padding, (B, T), without asking the device."""
    steps = np.shape(current_batch[1])[1]
    return np.asarray(np.asarray(current_batch[3])[:, :steps] == 1)


def publish_data(
    step: InertLearnerStep,
    current_batch: Sequence[NDArray[Any]],
    target_batch: Sequence[NDArray[Any]],
    task_id: int,
    whole: bool = False,
) -> None:
    """Publish rewards, value targets and how much successive observations differ, from where they are: the host.

    Arguments:
        step: the learner step; it must be one that is measured.
        current_batch: observations (B, (T + 1) * C, ...), actions (B, T), bootstrap actions, mask (B, T + 1), which is
            1 where a step is data and not padding, and more.
        target_batch: rewards (B, T + 1) and values (B, T + 1) first.
        task_id: global task id.
        whole: look at the observations of all samples, not of some.
    """
    batch_size, steps = np.shape(current_batch[1])[:2]
    rows = np.arange(batch_size) if whole else _spread_rows(batch_size)
    frames = np.asarray(current_batch[0])[rows]
    frames = np.asarray(frames, dtype=np.float32).reshape(len(frames), steps + 1, -1)
    # One array for all three: making a tensor of one costs as much as measuring it.
    table = np.empty((2 * batch_size + len(frames), steps), dtype=np.float32)
    table[:batch_size] = np.asarray(target_batch[0]).reshape(batch_size, -1)[:, :steps]
    table[batch_size : 2 * batch_size] = np.asarray(target_batch[1]).reshape(batch_size, -1)[:, :steps]
    change = table[2 * batch_size :]
    # One sequence at a time: allocating memory for all of them costs more than the arithmetic.
    for sequence, of_sequence in zip(frames, change, strict=True):
        difference = np.subtract(sequence[1:], sequence[:-1])
        np.add.reduce(np.abs(difference, out=difference), axis=-1, out=of_sequence)
    change /= frames.shape[-1]
    mask = torch.from_numpy(valid_steps(current_batch))
    reward, value_target, observation_change = torch.from_numpy(table).split([batch_size, batch_size, len(frames)])
    step.publish('data/reward', reward, task_id=task_id, mask=mask)
    step.publish('data/value_target', value_target, task_id=task_id, mask=mask)
    step.publish('data/observation_change', observation_change, task_id=task_id, mask=mask[rows])


def _spread_rows(batch_size: int) -> slice:
    # LightZero sorts a batch by age, so its first sequences are the oldest ones.
    stride = max(1, math.ceil(batch_size / _SEQUENCES))
    first = (batch_size - 1) % stride // 2
    return slice(first, batch_size, stride)
