"""Detects when modules or parameters of a model are added, removed, replaced or resized."""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor, nn

from ding_normmon.core.sharding import is_sharded

__all__ = ['ModelSnapshot']


class ModelSnapshot:
    """The modules and parameters of a model at one time.

    Training keeps the same parameters unless user code replaces them: ``load_state_dict(..., assign=True)``, a new
    head, an added layer, an embedding whose ``data`` is larger now. Changes of values, ``requires_grad``, dtype or
    device do not count. ``DTensor`` parameters are left out, because FSDP replaces them during a forward pass.

    Arguments:
        model: the model.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
        >>> layout = ModelSnapshot(model)
        >>> _ = model.double().requires_grad_(False)
        >>> layout.has_changed()
        False
        >>> model[1].weight = nn.Parameter(model[1].weight.detach())
        >>> layout.has_changed()
        True
        >>> layout = ModelSnapshot(model)
        >>> model[1].bias.data = torch.zeros(3)
        >>> layout.has_changed()
        True
    """

    def __init__(self, model: nn.Module) -> None:
        # A scripted module stores them elsewhere, where they cannot be replaced.
        modules = [module for module in model.modules() if isinstance(module._parameters, dict)]
        self._tables = [table for module in modules for table in (module._parameters, module._modules)]
        self._lengths = [len(table) for table in self._tables]
        places = [
            (table, name, entry)
            for table in self._tables
            for name, entry in table.items()
            if not is_sharded(entry)
        ]
        self._owners: list[Any] = [table for table, _, _ in places]
        self._names = [name for _, name, _ in places]
        self._entries: list[Any] = [entry for _, _, entry in places]
        self._parameters = [entry for entry in self._entries if _has_size(entry)]
        self._sizes = [*map(Tensor.numel, self._parameters)]

    def has_changed(self) -> bool:
        """Return whether a module or parameter was added, removed, replaced or resized."""
        # Called in every measured step, so it avoids Python loops.
        return (
            [*map(len, self._tables)] != self._lengths
            or not all(map(operator.is_, map(dict.get, self._owners, self._names), self._entries))
            or [*map(Tensor.numel, self._parameters)] != self._sizes
        )


def _has_size(entry: Any) -> bool:
    return isinstance(entry, Tensor) and not nn.parameter.is_lazy(entry)
