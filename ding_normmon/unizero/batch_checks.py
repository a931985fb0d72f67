"""Whether a task's batch is what the policy declares: numbers, inside the support, actions and masks that can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ding_normmon.core.step import InertLearnerStep

__all__ = ['outside_support', 'publish_checks']


def outside_support(values: NDArray[Any], support_scale: float) -> int:
    """Return how many values are not finite, or lie beyond what the categorical support can express.

    Arguments:
        values: rewards or values, before the transform of MuZero.
        support_scale: largest transformed value, which larger ones are cut down to in silence.

    Example:
        >>> outside_support(np.array([0.0, 14.0, 16.0, np.nan]), support_scale=3)
        2
    """
    with np.errstate(invalid='ignore'):
        size = np.abs(np.asarray(values, dtype=np.float64))
        transformed = np.sqrt(size + 1) - 1 + 0.001 * size
        return int(np.count_nonzero(~(transformed <= support_scale)))


def publish_checks(
    step: InertLearnerStep,
    current_batch: Sequence[NDArray[Any]],
    target_batch: Sequence[NDArray[Any]],
    mask: NDArray[np.bool_],
    num_actions: int,
    support_scale: float,
    task_id: int,
) -> None:
    """Publish the size of the batch, its valid steps, and what of it lies outside of what is declared.

    Observations that are not finite show in ``embeddings/obs``, which is made of all of them.

    Arguments:
        step: the learner step, which is due.
        current_batch: actions (B, T) second, mask (B, T + 1) fourth.
        target_batch: rewards (B, T + 1), values (B, T + 1) and policies (B, T + 1, A).
        mask: (B, T), true where a step is data and not padding.
        num_actions: of the task.
        support_scale: of values and rewards.
        task_id: global task id.
    """
    batch_size, steps = mask.shape
    step.publish_figure('data/batch_size', float(batch_size), task_id)
    step.publish_figure('data/valid_steps', float(np.count_nonzero(mask)), task_id)
    rewards, values = (np.asarray(part, np.float64).reshape(batch_size, -1)[:, :steps] for part in target_batch[:2])
    actions = np.asarray(current_batch[1]).reshape(batch_size, -1)[:, :steps][mask]
    masks = np.asarray(current_batch[3])
    policies = np.asarray(target_batch[2], np.float64).reshape(batch_size, -1, num_actions)[:, :steps][mask]
    outside = {
        'reward': outside_support(rewards[mask], support_scale),
        'value_target': outside_support(values[mask], support_scale),
        'action': np.count_nonzero(~((actions >= 0) & (actions < num_actions))),
        'mask': np.count_nonzero(~((masks == 0) | (masks == 1))),
        'policy_target': np.count_nonzero(~((policies >= 0) & (policies <= 1 + 1e-6))),
    }
    for name, count in outside.items():
        if count:
            step.publish_figure(f'data/outside/{name}', float(count), task_id)
