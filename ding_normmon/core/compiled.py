"""Finds modules inside compiled ones, where a forward hook would be compiled too or cause a recompilation."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

__all__ = ['compiled_parts', 'is_compiling']

is_compiling: Callable[[], bool] = getattr(getattr(torch, 'compiler', None), 'is_compiling', lambda: False)
"""Returns whether a compiler is tracing; always False before torch 2.1, which cannot tell."""


def compiled_parts(roots: Iterable[nn.Module]) -> set[int]:
    """Return the modules (their ``id``) inside a compiled one: ``torch.compile(module)`` or ``module.compile()``.

    >>> inner = nn.Sequential(nn.Linear(2, 2))
    >>> inner.compile()
    >>> compiled_parts([nn.Sequential(inner)]) == {id(inner[0])}
    True
    """
    compiled = [
        module
        for root in roots
        for module in root.modules()
        if '_orig_mod' in module._modules or getattr(module, '_compiled_call_impl', None) is not None
    ]
    # A hook on the compiled module itself runs outside the compiled code.
    return {id(part) for module in compiled for part in module.modules() if part is not module}
