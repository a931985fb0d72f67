"""Finds the modules of a model by attribute paths such as ``tokenizer.encoder``."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from torch import nn

from ding_normmon.core.task_containers import CONTAINERS

__all__ = ['GroupError', 'in_containers', 'module_at', 'parameters_of', 'resolve', 'unwrap']


class GroupError(ValueError):
    """A configured group that cannot be: its name is reserved or its path names no module.

    Example:
        >>> from ding_normmon import Monitor
        >>> model = nn.ModuleDict({'body': nn.Linear(2, 1)})
        >>> Monitor(model, {'module_groups': {'trunk': 'bdy'}})
        Traceback (most recent call last):
            ...
        ding_normmon.core.module_paths.GroupError: module_groups.trunk: 'bdy' names no module of ModuleDict; the \
nearest are body
    """


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside DistributedDataParallel, torch.compile and DI-engine's model wrappers."""
    while True:
        for attribute in ('_orig_mod', 'module', '_model'):
            inner = model.__dict__.get(attribute, None) or dict(getattr(model, '_modules', {}).items()).get(attribute)
            if not isinstance(inner, nn.Module) or (
                attribute == 'module' and not type(model).__name__.endswith('Parallel')
            ):
                continue
            # A model may call one of its parts by such a name; a wrapper has no parameters of its own.
            if parameters_of(inner) == parameters_of(model):
                model = inner
                break
        else:
            return model


def parameters_of(model: nn.Module) -> set[int]:
    """Return the ``id`` of each parameter of a model."""
    return {id(parameter) for parameter in model.parameters()}


def _roots(model: nn.Module) -> Sequence[nn.Module]:
    world_model = getattr(model, 'world_model', None)
    return (unwrap(world_model), model) if isinstance(world_model, nn.Module) else (model,)


def resolve(model: nn.Module, path: str) -> nn.Module | nn.Parameter | None:
    """Return what an attribute path leads to, from the world model or the model; None if nothing is there."""
    for root in _roots(model):
        target: Any = root
        for attribute in path.split('.'):
            try:
                target = getattr(target, attribute, None)
            except Exception as error:
                where = f'{path} of {type(model).__name__}'
                raise GroupError(f'{where} cannot be read ({type(error).__name__}: {error})') from error
            if target is None:
                break
            if isinstance(target, nn.Module):
                target = unwrap(target)
        if isinstance(target, (nn.Module, nn.Parameter)):
            return target
    return None


def in_containers(model: nn.Module, path: str, num_tasks: int | None) -> str:
    """Return where a path leads from a list or dict of modules: from the only one, or from the entry of every task."""
    found: dict[str, list[str]] = {}
    around = [('', root) for root in _roots(model)]
    for prefix, module in around:
        for key, child in module.named_children():
            if isinstance(child, CONTAINERS):
                around.append((f'{prefix}{key}.', child))
                if resolve(child, path) is not None:
                    found.setdefault(prefix, []).append(f'{prefix}{key}.{path}')
    if len(found) != 1:
        return ''
    ((prefix, paths),) = found.items()
    if len(paths) > 1:
        return f'{prefix}*.{path}' if len(paths) == num_tasks else ''
    return paths[0]


def module_at(model: nn.Module, name: str, path: str) -> nn.Module | nn.Parameter:
    """Return what a configured path leads to.

    Raises:
        GroupError: nothing is there; the message names the nearest modules.
    """
    target = resolve(model, path)
    if target is not None:
        return target
    known = [known for root in _roots(model) for known, _ in root.named_modules() if known]
    nearest = difflib.get_close_matches(path, known, n=3, cutoff=0.4)
    hint = f'; the nearest are {", ".join(nearest)}' if nearest else ''
    raise GroupError(f'module_groups.{name}: {path!r} names no module of {type(model).__name__}{hint}')
