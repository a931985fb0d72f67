"""Which parameters a backward pass reaches, and whether several threads make backward passes.

A parameter's ``grad`` must not be read while another thread's pass may write it: autograd writes without the
interpreter lock, and the process would crash. So if several threads train, a listener first asks whether a pass reaches
its parameters.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence, Set
from typing import Any

import torch
from torch import Tensor

__all__ = ['is_inside_a_pass', 'note_thread', 'reaches', 'several_threads']

_graph_task: Callable[[], int] = getattr(torch._C, '_current_graph_task_id', lambda: -1)


def is_inside_a_pass() -> bool:
    """Return whether a backward pass is running in this thread, as around that of a reentrant checkpoint."""
    return _graph_task() != -1


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


def note_thread() -> None:
    """Note that the calling thread trains."""
    _Threads.note()


def several_threads() -> bool:
    """Return whether several threads of this process have been seen to make backward passes."""
    return _Threads.several


def reaches(roots: Sequence[Any], parameters: Set[int]) -> bool:
    """Return whether a backward pass from these tensors reaches one of the parameters (their ``id``).

    It also works after the pass, because the roots keep the graph's nodes. The inside of a reentrant checkpoint is not
    in the graph, so a pass through one may reach any parameter.

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
