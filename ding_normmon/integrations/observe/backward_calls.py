"""Seeing backward passes end, and telling whose parameters they have reached."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence, Set
from typing import Any, Protocol

import torch
from torch import Tensor

from ding_normmon.core.observed_function import ObservedFunction, observed

__all__ = ['BackwardListener', 'backward_calls_observed', 'reaches', 'several_threads']

_BACKWARD = torch.autograd.backward
"""The function itself: others may have put one of their own in its place, which calls it."""

_graph_task: Callable[[], int] = getattr(torch._C, '_current_graph_task_id', lambda: -1)


class BackwardListener(Protocol):
    """Who hears of backward passes."""

    def backward_begins(self) -> Any:
        """Called before one; what is returned is handed to :meth:`backward_ended`."""

    def backward_ended(self, before: Any, roots: Sequence[Any]) -> None:
        """Called when all gradients of the pass are there, with the tensors that were differentiated."""


class _Threads:
    """Whether backward passes are made by more than one thread."""

    first: int | None = None
    several = False

    @classmethod
    def note(cls) -> None:
        this = threading.get_ident()
        if cls.first is None:
            cls.first = this
        cls.several = cls.several or this != cls.first


def several_threads() -> bool:
    """Tell whether several threads of this process have been seen to make backward passes."""
    return _Threads.several


@contextlib.contextmanager
def backward_calls_observed(listener: BackwardListener) -> Iterator[None]:
    """Tell ``listener`` of every call of ``backward`` until the block ends.

    ``tensor.backward()`` calls ``torch.autograd.backward``, and so does everything that is built on it. Passes within
    another one, as those of a reentrant checkpoint, belong to that one.
    """

    def around(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if _graph_task() != -1:
            return call(*args, **kwargs)
        _Threads.note()
        before = listener.backward_begins()
        result = call(*args, **kwargs)
        roots = args[0] if args else kwargs.get('tensors', ())
        listener.backward_ended(before, roots if isinstance(roots, Sequence) else (roots,))
        return result

    with observed([(ObservedFunction.of(_BACKWARD), around)]):
        yield


def reaches(roots: Sequence[Any], parameters: Set[int]) -> bool:
    """Tell whether a backward pass from these tensors comes to one of the parameters (their ``id``).

    It may be asked after the pass: the nodes of the graph are there as long as the roots are. A pass that goes through
    a checkpoint, whose inside is not in the graph, may come to any.

    Example:
        >>> first, second = (torch.nn.Linear(2, 2) for _ in range(2))
        >>> loss = first(torch.ones(1, 2)).tanh().sum()
        >>> reaches([loss], {id(first.weight)}), reaches([loss], {id(second.weight)})
        (True, False)
    """
    waiting: list[Any] = []
    for root in roots:
        if isinstance(root, Tensor):
            if id(root) in parameters:
                return True
            waiting.append(root.grad_fn)
        else:
            # A gradient edge, which is a node and the number of its output.
            waiting.append(getattr(root, 'node', None))
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        variable = getattr(node, 'variable', None)
        if (variable is not None and id(variable) in parameters) or node.name() == 'CheckpointFunctionBackward':
            return True
        fresh = {following for following, _ in node.next_functions} - seen
        seen |= fresh
        waiting += fresh
    return False
