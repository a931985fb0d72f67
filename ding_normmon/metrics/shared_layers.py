"""Finds the layers that all tasks share, whose units may be dormant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from ding_normmon.core.parameter_groups import Group, unwrap

__all__ = ['Layer', 'shared_layers']

_NONLINEAR = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Softplus,
    nn.Tanh,
    nn.Sigmoid,
)
_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d)


class Layer(NamedTuple):
    """A module whose outputs are units.

    Arguments:
        group: name of the shared parameter group it belongs to.
        path: in the model.
        module: the module.
        within: where several modules use this one, the module in whose forward pass it is this layer.
        users: all modules that use it, then.
    """

    group: str
    path: str
    module: nn.Module
    within: nn.Module | None = None
    users: tuple[nn.Module, ...] = ()


def shared_layers(model: nn.Module, groups: Sequence[Group]) -> tuple[Layer, ...]:
    """Return the nonlinearities of every shared group; of a group without such modules, its linear layers.

    A nonlinearity has no parameters: it belongs to the group of the nearest module around it that has some, if those
    are all of one group. One that is used in several modules is a layer of each of them.

    >>> from ding_normmon.core.parameter_groups import find_groups
    >>> encoder = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> model = nn.ModuleDict({'encoder': encoder, 'transformer': nn.Linear(3, 3)})
    >>> [(layer.group, layer.path) for layer in shared_layers(model, find_groups(model))]
    [('encoder', 'encoder.1'), ('transformer', 'transformer')]
    """
    model = unwrap(model)
    owner = {id(parameter): group for group in groups for parameter in group.parameters}
    modules = dict(model.named_modules(remove_duplicate=False))
    # The modules around each module, and its path in each of them.
    places: dict[int, dict[nn.Module, str]] = {}
    for path, module in modules.items():
        places.setdefault(id(module), {}).setdefault(modules[path.rpartition('.')[0]], path)

    def group_of(path: str) -> str | None:
        while True:
            parameters = list(modules[path].parameters()) if path in modules else []
            if parameters:
                found = {owner[id(parameter)].key for parameter in parameters if id(parameter) in owner}
                first = owner.get(id(parameters[0]))
                return first.name if len(found) == 1 and first is not None and first.task_id is None else None
            if not path:
                return None
            path = path.rpartition('.')[0]

    layers: dict[str, list[Layer]] = {}
    for kind in (_NONLINEAR, _LINEAR):
        found: dict[str, list[Layer]] = {}
        for path, module in modules.items():
            around = modules[path.rpartition('.')[0]]
            users = tuple(places[id(module)])
            # A second attribute of the same parent is a second call there.
            if not isinstance(module, kind) or places[id(module)][around] != path:
                continue
            group = group_of(path)
            if group is not None and group not in layers:
                shared = (around, users) if len(users) > 1 else (None, ())
                found.setdefault(group, []).append(Layer(group, path, module, *shared))
        layers.update(found)
    return tuple(layer for group in layers.values() for layer in group)
