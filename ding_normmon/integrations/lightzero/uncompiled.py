"""Hooks that ``torch.compile`` does not look into."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import torch

__all__ = ['uncompiled']

P = ParamSpec('P')
R = TypeVar('R')


def uncompiled(hook: Callable[P, R]) -> Callable[P, R]:
    """Return a forward hook that a compiled module calls as it is.

    A module that was compiled in place (``module.compile()``) has its hooks compiled with it, and what a monitor does
    with a tensor cannot be traced: without this, the forward pass of the policy would fail.

    >>> uncompiled(len)('abc')
    3
    """
    # Nothing is compiled in a process that has not imported the compiler, which takes seconds.
    if 'torch._dynamo' not in sys.modules:
        return hook
    return cast('Callable[P, R]', torch.compiler.disable(hook))
