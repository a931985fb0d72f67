"""Seeing an optimizer step, from whichever thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from torch.optim import Optimizer

from ding_normmon.core.observed_function import ObservedFunction, observed

__all__ = ['SteppingListener', 'optimizer_steps_observed']


class SteppingListener(Protocol):
    """Who hears of one optimizer's steps."""

    def enter(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Called before a step; returns other arguments for it, or None."""

    def leave(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Called after a step that did not raise."""


@contextlib.contextmanager
def optimizer_steps_observed(optimizer: Optimizer, listener: SteppingListener) -> Iterator[None]:
    """Tell ``listener`` of this optimizer's steps until the block ends.

    Not by ``register_step_pre_hook``: torch goes through the hooks while it steps, and would raise in the thread that
    trains if another one put a hook there or took it off. A step within a step (DI-engine's own optimizers call their
    base's) is part of the outer one.
    """
    inside = threading.local()

    def around(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not args or args[0] is not optimizer or getattr(inside, 'a_step', False):
            return call(*args, **kwargs)
        inside.a_step = True
        try:
            changed = listener.enter(optimizer, args, kwargs)
            if changed is not None:
                args, kwargs = changed
            result = call(*args, **kwargs)
            listener.leave(optimizer, args, kwargs)
        finally:
            inside.a_step = False
        return result

    steps = dict.fromkeys(vars(kind)['step'] for kind in type(optimizer).__mro__ if 'step' in vars(kind))
    with observed((ObservedFunction.of(step), around) for step in steps):
        yield
