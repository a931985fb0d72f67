"""Observes the end of backward passes and which parameters they have reached."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch

from ding_normmon.core.backward_passes import is_inside_a_pass, note_thread
from ding_normmon.core.observed_function import ObservedFunction, observed

__all__ = ['BackwardListener', 'backward_calls_observed']

_BACKWARD = torch.autograd.backward
"""The original function; others may have replaced the attribute by one that calls it."""


class BackwardListener(Protocol):
    """Listener of backward passes."""

    def backward_begins(self, roots: Sequence[Any]) -> Any:
        """Called before a pass, with the tensors to differentiate; its result is passed to :meth:`backward_ended`."""

    def backward_ended(self, before: Any, roots: Sequence[Any]) -> None:
        """Called when all gradients of the pass are there, with the tensors that were differentiated."""


@contextlib.contextmanager
def backward_calls_observed(listener: BackwardListener) -> Iterator[None]:
    """Tell ``listener`` of every call of ``backward`` until the block ends.

    ``tensor.backward()`` calls ``torch.autograd.backward``, and so does everything that is built on it. Passes within
    another one, as those of a reentrant checkpoint, belong to that one.
    """

    def around(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if is_inside_a_pass():
            return call(*args, **kwargs)
        note_thread()
        tensors = args[0] if args else kwargs.get('tensors', ())
        roots = tensors if isinstance(tensors, Sequence) else (tensors,)
        before = listener.backward_begins(roots)
        result = call(*args, **kwargs)
        listener.backward_ended(before, roots)
        return result

    with observed([(ObservedFunction.of(_BACKWARD), around)]):
        yield
