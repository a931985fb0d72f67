"""What is in the batches of LightZero's replay buffers, and whether it is what the policy declares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ding_normmon.core.step import InertLearnerStep

__all__ = ['Declared', 'batches_of', 'mask_entry', 'outside_support', 'publish_batch', 'publish_checks']

_Range = tuple[float, float]


class Declared(NamedTuple):
    """Ranges that a policy declares for its batches; None where it declares nothing.

    Arguments:
        actions: number of discrete actions.
        reward: smallest and largest transformed reward that the model can express.
        value: the same of values.
    """

    actions: int | None = None
    reward: _Range | None = None
    value: _Range | None = None

    @classmethod
    def by(cls, policy: Any) -> Declared:
        """Read what one of LightZero's policies declares."""
        model = getattr(getattr(policy, '_cfg', None), 'model', None) or {}
        actions = model.get('action_space_size')
        is_discrete = isinstance(actions, int) and not model.get('continuous_action_space', False)
        if not model.get('categorical_distribution', True):
            return cls(actions if is_discrete else None)
        supports = (_range_of(getattr(policy, name, None)) for name in ('reward_support', 'value_support'))
        return cls(actions if is_discrete else None, *supports)


def _range_of(support: Any) -> _Range | None:
    """Return the ends of a ``DiscreteSupport``, of the package or of its successor, which keeps them in a tensor."""
    low, high = getattr(support, 'min', None), getattr(support, 'max', None)
    if isinstance(low, (int, float)) and isinstance(high, (int, float)):
        return (float(low), float(high)) if getattr(support, 'delta', 1) == 1 else None
    steps = getattr(support, 'arange', None)
    if isinstance(steps, torch.Tensor) and getattr(support, 'step', 1) == 1:
        return float(steps.min()), float(steps.max())
    return None


def outside_support(values: NDArray[Any], support: _Range | None) -> int:
    """Return how many values are not finite, or lie beyond what the categorical support can express.

    Arguments:
        values: rewards or values, before the transform of MuZero.
        support: smallest and largest transformed value, to which others are cut in silence; None checks numbers only.

    Example:
        >>> outside_support(np.array([0.0, 14.0, 16.0, np.nan]), (-3.0, 3.0))
        2
    """
    values = np.asarray(values, dtype=np.float64)
    if support is None:
        return int(np.count_nonzero(~np.isfinite(values)))
    with np.errstate(invalid='ignore'):
        transformed = np.sign(values) * (np.sqrt(np.abs(values) + 1) - 1) + 0.001 * values
        return int(np.count_nonzero(~((transformed >= support[0]) & (transformed <= support[1]))))


def mask_entry(current_batch: Any) -> tuple[int, NDArray[Any]] | None:
    """Return the mask (B, T + 1) of a current batch and its place there, None if there is no such entry.

    Where it stands differs: Gumbel MuZero has the improved policy before it. It is the first entry after observations
    and actions that has a row for every action sequence, and one column more than that has actions.
    """
    if not isinstance(current_batch, (list, tuple)) or len(current_batch) < 3:
        return None
    shape = np.shape(current_batch[1])
    if len(shape) >= 2:
        for place, entry in enumerate(current_batch[2:], 2):
            if np.shape(entry) == (shape[0], shape[1] + 1):
                return place, np.asarray(entry)
    return None


def batches_of(data: Any, multi_task: bool) -> Iterator[tuple[int | None, Any, Any]]:
    """Yield task id, current batch and target batch of all that ``_forward_learn`` was called with."""
    entries = data if multi_task else [data]
    for entry in entries if isinstance(entries, (list, tuple)) else ():
        if isinstance(entry, (list, tuple)) and len(entry) >= (3 if multi_task else 2):
            yield (int(entry[2]) if multi_task else None), entry[0], entry[1]


def publish_batch(
    step: InertLearnerStep,
    current_batch: Sequence[NDArray[Any]],
    target_batch: Sequence[NDArray[Any]],
    declared: Declared,
    task_id: int | None,
) -> None:
    """Publish the rewards and value targets of a batch, and what :func:`publish_checks` says of it.

    Arguments:
        step: the learner step, which is due.
        current_batch: actions (B, T, ...) second, a mask (B, T + 1) after them.
        target_batch: rewards (B, T + 1), values (B, T + 1) and policies (B, T + 1, A).
        declared: by the policy.
        task_id: global task id; None for a single task.
    """
    found = mask_entry(current_batch)
    if found is None or len(target_batch) < 3:
        return
    batch_size, steps = np.shape(current_batch[1])[:2]
    mask = torch.from_numpy(np.ascontiguousarray(found[1][:, :steps] == 1))
    for name, values in (('data/reward', target_batch[0]), ('data/value_target', target_batch[1])):
        if np.shape(values)[:2] == (batch_size, steps + 1):
            table = np.array(values, dtype=np.float32).reshape(batch_size, steps + 1)[:, :steps]
            step.publish(name, torch.from_numpy(np.ascontiguousarray(table)), task_id=task_id, mask=mask)
    publish_checks(step, current_batch, target_batch, declared, task_id)


def publish_checks(
    step: InertLearnerStep,
    current_batch: Sequence[NDArray[Any]],
    target_batch: Sequence[NDArray[Any]],
    declared: Declared,
    task_id: int | None,
) -> None:
    """Publish the size of the batch, its valid steps, and what of it lies outside of what is declared.

    Observations that are not finite show in ``embeddings/obs``, which is made of all of them. The arguments are those
    of :func:`publish_batch`.
    """
    found = mask_entry(current_batch)
    if found is None:
        return
    masks = found[1]
    batch_size, steps = np.shape(current_batch[1])[:2]
    valid = masks[:, :steps] == 1
    step.publish_figure('data/batch_size', float(batch_size), task_id)
    step.publish_figure('data/valid_steps', float(np.count_nonzero(valid)), task_id)
    rewards, values, policies = (
        np.asarray(part, np.float64)[:, :steps][valid] if np.shape(part)[:2] == masks.shape else np.empty(0)
        for part in target_batch[:3]
    )
    actions = np.asarray(current_batch[1])[valid]
    in_range = np.isfinite(actions)
    if declared.actions is not None and actions.ndim == 1:
        in_range = (actions >= 0) & (actions < declared.actions)
    outside = {
        'reward': outside_support(rewards, declared.reward),
        'value_target': outside_support(values, declared.value),
        'action': np.count_nonzero(~in_range),
        'mask': np.count_nonzero(~((masks == 0) | (masks == 1))),
        'policy_target': np.count_nonzero(~((policies >= 0) & (policies <= 1 + 1e-6))),
    }
    for name, count in outside.items():
        if count:
            step.publish_figure(f'data/outside/{name}', float(count), task_id)
