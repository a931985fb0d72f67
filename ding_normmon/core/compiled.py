"""Finds modules inside compiled ones, where a forward hook would be compiled too or cause a recompilation."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

__all__ = ['compiled_parts', 'is_compiling']

is_compiling: Callable[[], bool] = getattr(getattr(torch, 'compiler', None), 'is_compiling', lambda: False)
"""Returns whether a compiler is tracing; always False before torch 2.1, which cannot tell."""


def compiled_parts(roots: Iterable[nn.Module]) -> set[int]:
    """Return the modules (their ``id``) that are scripted, or inside a compiled one (also by ``module.compile()``).

    >>> inner = nn.Sequential(nn.Linear(2, 2))
    >>> inner.compile()
    >>> compiled_parts([nn.Sequential(inner)]) == {id(inner[0])}
    True
    """
    modules = [module for root in roots for module in root.modules()]
    compiled = [
        module
        for module in modules
        if '_orig_mod' in module._modules or getattr(module, '_compiled_call_impl', None) is not None
    ]
    # A hook on the compiled module itself runs outside the compiled code; on a scripted one there can be none.
    inside = {id(part) for module in compiled for part in module.modules() if part is not module}
    return inside | {id(module) for module in modules if isinstance(module, torch.jit.ScriptModule)}
