"""The batch of a policy that publishes nothing: what its learner step is given, and whether that can be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ding_normmon.core.step import InertLearnerStep

__all__ = ['publish_batch']

_FIELDS = ('obs', 'next_obs', 'action', 'reward', 'done', 'value', 'adv', 'return_', 'weight')
"""What DI-engine's policies call the parts of a transition."""

_COLLECTED = ('collect_train_iter', 'collect_iter')
"""What they call the learner iteration at which it was collected: in pipelines, and in serial collectors."""

_MOST_SAMPLES = 4096


def publish_batch(step: InertLearnerStep, data: Any, model: Any = None) -> None:
    """Publish the parts of a batch as ``data/{part}``, how old its samples are, and what cannot be.

    Arguments:
        step: the learner step, which is due.
        data: what ``_forward_learn`` was given: a list of transitions, or a mapping of tensors; anything else shows
            nothing.
        model: what the policy's configuration says of its model: ``action_shape``, ``v_min`` and ``v_max`` count.

    Example:
        >>> class Step:
        ...     iteration = 7
        ...     def publish(self, name, tensor):
        ...         print(name, tuple(tensor.shape))
        ...     def publish_figure(self, name, value):
        ...         print(name, value)
        >>> transitions = [{'obs': torch.zeros(4), 'reward': torch.tensor([20.0]), 'collect_iter': 5}] * 3
        >>> publish_batch(Step(), transitions, {'v_min': -10, 'v_max': 10})
        data/obs (3, 4)
        data/reward (3, 1)
        data/outside/reward 3.0
        data/age_iterations (3, 1)
    """
    for name, tensor in _parts(data, _FIELDS):
        if not tensor.is_complex() and tensor.numel() and tensor.layout == torch.strided:
            step.publish(f'data/{name}', tensor if tensor.is_floating_point() else tensor.float())
            outside = _outside(name, tensor, model or {})
            if outside is not None:
                step.publish_figure(f'data/outside/{name}', outside)
    for _, tensor in _parts(data, _COLLECTED):
        step.publish('data/age_iterations', step.iteration - tensor.reshape(len(tensor), -1)[:, :1].float())
        break


def _outside(name: str, tensor: Tensor, model: Any) -> Tensor | float | None:
    """Return how many entries are outside of what the policy declares; None where that is known to be none."""
    if name == 'reward' and 'v_min' in model and 'v_max' in model:
        wrong = ~((tensor >= model['v_min']) & (tensor <= model['v_max']))
    elif name == 'action' and isinstance(shape := model.get('action_shape'), int) and not tensor.is_floating_point():
        wrong = (tensor < 0) | (tensor >= shape)
    elif name == 'done':
        wrong = (tensor != 0) & (tensor != 1)
    else:
        return None
    count = wrong.sum()
    if count.device.type != 'cpu':
        # Nobody waits for the device.
        return count.double()
    return float(count) or None


def _parts(data: Any, names: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield the parts of a batch that are there, as tensors over its samples."""
    if _is_mapping(data):
        found = data.keys()
        yield from ((name, data[name]) for name in names if name in found and isinstance(data[name], Tensor))
    elif isinstance(data, (list, tuple)) and data and all(map(_is_mapping, data)):
        for name in names:
            entries = [entry[name] if name in entry.keys() else None for entry in data[:_MOST_SAMPLES]]  # noqa: SIM118
            if stacked := _stacked(entries):
                yield name, stacked[0]


def _is_mapping(thing: Any) -> bool:
    # The trees of tensors in DI-engine's pipelines are no Mapping, and "in" asks them for something else.
    return callable(getattr(thing, 'keys', None)) and hasattr(thing, '__getitem__')


def _stacked(found: Sequence[Any]) -> list[Tensor]:
    if all(isinstance(entry, Tensor) for entry in found) and len({entry.shape for entry in found}) == 1:
        return [torch.stack(list(found))]
    if all(isinstance(entry, (bool, int, float)) for entry in found):
        return [torch.tensor([float(entry) for entry in found])]
    return []
