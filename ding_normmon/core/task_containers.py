"""Lists and dicts of modules with one entry for each task."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

__all__ = ['CONTAINERS', 'keys_by_task', 'without_box']

CONTAINERS = (nn.ModuleList, nn.ModuleDict)


def without_box(target: nn.Module | nn.Parameter, num_tasks: int) -> nn.Module | nn.Parameter:
    """Return the container with one entry per task, also if it is the only entry of another one.

    >>> heads = nn.ModuleDict({'depth': nn.Linear(2, 1), 'normals': nn.Linear(2, 3)})
    >>> without_box(nn.ModuleList([heads]), num_tasks=2) is heads
    True
    """
    inner: nn.Module | nn.Parameter = target
    while isinstance(inner, CONTAINERS) and len(inner) == 1 and len(inner) != num_tasks:
        inner = next(inner.children())
    return inner if isinstance(inner, CONTAINERS) and len(inner) == num_tasks else target


def keys_by_task(container: nn.Module, task_names: Sequence[str]) -> list[str]:
    """Return the keys of a container's entries in the order of the tasks.

    >>> heads = nn.ModuleDict({'depth': nn.Linear(2, 1), 'normals': nn.Linear(2, 3)})
    >>> keys_by_task(heads, ['normals', 'depth']), keys_by_task(heads, [])
    (['normals', 'depth'], ['depth', 'normals'])
    """
    keys = list(container._modules)
    if len(task_names) == len(keys) and set(task_names) == set(keys):
        return list(task_names)
    if all(key.isdecimal() for key in keys) and {int(key) for key in keys} == set(range(len(keys))):
        return sorted(keys, key=int)
    return keys
