"""Put something else in the place of an attribute for a while."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

__all__ = ['before_zero_grad', 'substituted']

_NOTHING = object()


@contextlib.contextmanager
def substituted(target: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of one object (never of its class), and put it back as it was, also if it was not there.

    >>> class Policy: name = 'of the class'
    >>> policy = Policy()
    >>> with substituted(policy, 'name', 'ours'): print(policy.name)
    ours
    >>> policy.name, vars(policy)
    ('of the class', {})
    """
    before = vars(target).get(name, _NOTHING)
    setattr(target, name, value)
    try:
        yield
    finally:
        if before is _NOTHING:
            delattr(target, name)
        else:
            setattr(target, name, before)


@contextlib.contextmanager
def before_zero_grad(
    optimizer: torch.optim.Optimizer | None, announce: Callable[[Mapping[str, Any]], None]
) -> Iterator[None]:
    """Call ``announce`` whenever the optimizer's gradients are about to be cleared, with the caller's local variables.

    LightZero's policies clear them between the losses of all tasks and the backward pass, which is the last moment at
    which every loss is known and its graph alive; some keep their losses nowhere but in those variables.
    """
    if optimizer is None:
        yield
        return
    zero_grad = optimizer.zero_grad

    def announced(*args: Any, **kwargs: Any) -> Any:
        announce(sys._getframe(1).f_locals)
        return zero_grad(*args, **kwargs)

    with substituted(optimizer, 'zero_grad', announced):
        yield
