"""Observes the steps of optimizers, in any thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from torch.optim import Optimizer

from ding_normmon.core.observed_function import ObservedFunction, observed

__all__ = ['SteppingListener', 'optimizer_steps_observed']


class SteppingListener(Protocol):
    """Listener of one optimizer's steps."""

    def enter(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Called before a step; returns other arguments for it, or None."""

    def leave(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Called after a step that did not raise."""


@contextlib.contextmanager
def optimizer_steps_observed(pairs: Iterable[tuple[Optimizer, SteppingListener]]) -> Iterator[None]:
    """Notify each listener of its optimizer's steps until the block ends.

    ``register_step_pre_hook`` is not used: torch iterates over the hooks while it steps, and would raise in the
    training thread if another thread added or removed one. A step within a step (DI-engine's own optimizers call their
    base's) is part of the outer one.

    Arguments:
        pairs: optimizers and their listeners. There may be hundreds of one class, one per parameter.
    """
    inside = threading.local()
    known = {id(optimizer): (optimizer, listener) for optimizer, listener in pairs}

    def around(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        optimizer, listener = known.get(id(args[0]), (None, None)) if args else (None, None)
        running: set[int] = inside.__dict__.setdefault('running', set())
        if optimizer is None or listener is None or id(optimizer) in running:
            return call(*args, **kwargs)
        running.add(id(optimizer))
        try:
            changed = listener.enter(optimizer, args, kwargs)
            if changed is not None:
                args, kwargs = changed
            result = call(*args, **kwargs)
            listener.leave(optimizer, args, kwargs)
        finally:
            running.discard(id(optimizer))
        return result

    kinds = dict.fromkeys(kind for optimizer, _ in known.values() for kind in type(optimizer).__mro__)
    steps = dict.fromkeys(vars(kind)['step'] for kind in kinds if 'step' in vars(kind))
    with observed((ObservedFunction.of(step), around) for step in steps):
        yield
