"""The batch of a policy that publishes nothing: what its learner step is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ding_normmon.core.step import InertLearnerStep

__all__ = ['publish_batch']

_FIELDS = ('obs', 'next_obs', 'action', 'reward', 'done', 'value', 'adv', 'return_', 'weight')
"""What DI-engine's policies call the parts of a transition."""

_MOST_SAMPLES = 4096


def publish_batch(step: InertLearnerStep, data: Any) -> None:
    """Publish the parts of a batch as ``data/{part}``.

    Arguments:
        step: the learner step, which is due.
        data: what ``_forward_learn`` was given: a list of transitions, or a mapping of tensors; anything else shows
            nothing.

    Example:
        >>> class Step:
        ...     def publish(self, name, tensor):
        ...         print(name, tuple(tensor.shape))
        >>> publish_batch(Step(), [{'obs': torch.zeros(4), 'reward': torch.zeros(1)}] * 3)
        data/obs (3, 4)
        data/reward (3, 1)
    """
    for name, tensor in _parts(data):
        if not tensor.is_complex() and tensor.numel() and tensor.layout == torch.strided:
            step.publish(f'data/{name}', tensor if tensor.is_floating_point() else tensor.float())


def _parts(data: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(data, Mapping):
        yield from ((name, data[name]) for name in _FIELDS if isinstance(data.get(name), Tensor))
    elif isinstance(data, (list, tuple)) and data and all(isinstance(entry, Mapping) for entry in data):
        for name in _FIELDS:
            found = [entry.get(name) for entry in data[:_MOST_SAMPLES]]
            if stacked := _stacked(found):
                yield name, stacked[0]


def _stacked(found: Sequence[Any]) -> list[Tensor]:
    if all(isinstance(entry, Tensor) for entry in found) and len({entry.shape for entry in found}) == 1:
        return [torch.stack(list(found))]
    if all(isinstance(entry, (bool, int, float)) for entry in found):
        return [torch.tensor([float(entry) for entry in found])]
    return []
