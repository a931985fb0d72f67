"""Where policies keep their model and their optimizers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ding_normmon.core.parameter_groups import unwrap

__all__ = ['find_models', 'find_optimizers', 'model_of', 'names_of_policy', 'target_of']


def model_of(policy: Any) -> nn.Module | None:
    """Return the model that a policy trains, without its wrappers; None if there is none."""
    learns = _module_at(policy, '_learn_model')
    return _module_at(policy, '_model') if learns is None else learns


def target_of(policy: Any) -> tuple[nn.Module, nn.Module] | None:
    """Return the model that a policy trains and the target network that follows it; None if there is none."""
    online, target = model_of(policy), _module_at(policy, '_target_model')
    return None if online is None or target is None else (online, target)


def _module_at(policy: Any, attribute: str) -> nn.Module | None:
    model = getattr(policy, attribute, None)
    # DI-engine's model wrappers are no modules, and stand inside one another.
    while model is not None and not isinstance(model, nn.Module):
        model = getattr(model, '__dict__', {}).get('_model')
    return None if model is None else unwrap(model)


def find_optimizers(policy: Any) -> dict[str, Optimizer]:
    """Return a policy's optimizers by the name under which it keeps them, each once.

    They are looked for among its attributes, in lists and dicts there, and in objects that wrap one optimizer.

    >>> from types import SimpleNamespace
    >>> import torch
    >>> weight = torch.nn.Parameter(torch.ones(1))
    >>> actor, critic = (torch.optim.SGD([weight], lr=0.1) for _ in range(2))
    >>> list(find_optimizers(SimpleNamespace(_optimizer_actor=actor, _others={'critic': critic}, name='x')))
    ['_optimizer_actor', '_others.critic']
    """
    found: dict[int, tuple[str, Optimizer]] = {}
    for name, optimizer in _candidates(policy):
        found.setdefault(id(optimizer), (name, optimizer))
    return dict(found.values())


def _candidates(policy: Any) -> Iterator[tuple[str, Optimizer]]:
    wrapped: list[tuple[str, Optimizer]] = []
    for name, value in vars(policy).items():
        if isinstance(value, Optimizer):
            yield name, value
        elif isinstance(value, (Mapping, list, tuple)):
            entries = value.items() if isinstance(value, Mapping) else enumerate(value)
            yield from ((f'{name}.{key}', entry) for key, entry in entries if isinstance(entry, Optimizer))
        elif attributes := getattr(value, '__dict__', None):
            for attribute in ('optimizer', '_optimizer', '_optim'):
                if isinstance(inner := attributes.get(attribute), Optimizer):
                    wrapped.append((name, inner))
    # Schedulers know their optimizer too; a name of its own is better.
    yield from wrapped


def find_models(policy: Any, model: nn.Module) -> dict[str, nn.Module]:
    """Return the models that a policy trains beside its own: modules that one of its optimizers holds entirely."""
    own = {id(parameter) for parameter in model.parameters()}
    held = {
        id(parameter)
        for optimizer in find_optimizers(policy).values()
        for group in optimizer.param_groups
        for parameter in group['params']
    }
    found: dict[str, nn.Module] = {}
    for name, value in vars(policy).items():
        if isinstance(value, nn.Module):
            parameters = {id(parameter) for parameter in value.parameters()}
            if parameters and parameters <= held and not parameters & own:
                found[name.lstrip('_')] = value
                own |= parameters
    return found


def names_of_policy(policy: Any) -> dict[int, str]:
    """Return what a policy calls its tasks, by global id: its ``task_names``, a sequence or a mapping.

    >>> from types import SimpleNamespace
    >>> names_of_policy(SimpleNamespace(task_names=['Pong', 'Boxing']))
    {0: 'Pong', 1: 'Boxing'}
    """
    names = getattr(policy, 'task_names', None) or ()
    return {int(task): str(name) for task, name in (names.items() if isinstance(names, Mapping) else enumerate(names))}
