"""Which optimizers step, and what they hold: seen by torch's own hook, whatever they are called and whoever keeps them.

The hook is there in measured steps only. An optimizer that has stepped once is known from then on.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Collection, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

__all__ = ['SteppingOptimizers']


class SteppingOptimizers:
    """The optimizers of a run that hold some of its parameters.

    Attributes:
        any_stepped: whether any optimizer has stepped in the current or last measured step, also one of other models.
        steps: how often optimizers that hold parameters of the model have stepped in it.

    Example:
        >>> import torch
        >>> weight = nn.Parameter(torch.ones(1))
        >>> optimizer, seen = torch.optim.SGD([weight], lr=0.1), SteppingOptimizers()
        >>> seen.follow([weight])
        >>> seen.watch()
        >>> optimizer.step()
        >>> seen.release()
        >>> seen.stepped == [optimizer], list(seen.holders()) == [id(weight)]
        (True, True)
    """

    def __init__(self) -> None:
        self._own: set[int] = set()
        self._known: list[weakref.ref[Optimizer]] = []
        self._stepped: list[weakref.ref[Optimizer]] = []
        self._handle: Any = None
        self.any_stepped = False
        self.steps = 0

    def follow(self, parameters: Iterable[nn.Parameter]) -> None:
        """Take note of the model's parameters, also where others have taken the place of earlier ones."""
        self._own.update(id(parameter) for parameter in parameters)

    def watch(self) -> None:
        """Begin to watch a measured step, where that has not begun."""
        if self._handle is None:
            self._stepped, self.any_stepped, self.steps = [], False, 0
            self._handle = register_optimizer_step_pre_hook(self._note)

    def release(self) -> None:
        """End watching."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _note(self, optimizer: Optimizer, *_: Any) -> None:
        self.any_stepped = True
        if self._holds_any(optimizer):
            self.steps += 1
            _add(self._stepped, optimizer)
            _add(self._known, optimizer)

    def _holds_any(self, optimizer: Optimizer) -> bool:
        groups = getattr(optimizer, 'param_groups', None) or []
        return any(id(parameter) in self._own for group in groups for parameter in group['params'])

    @property
    def stepped(self) -> list[Optimizer]:
        """Those that have stepped in the current or last measured step."""
        return [optimizer for entry in self._stepped if (optimizer := entry()) is not None]

    @property
    def known(self) -> list[Optimizer]:
        """Every optimizer that has stepped in a measured step and still exists."""
        self._known = [entry for entry in self._known if entry() is not None]
        return [optimizer for entry in self._known if (optimizer := entry()) is not None]

    def holders(self) -> dict[int, tuple[Optimizer, dict[str, Any]]]:
        """Return the optimizer that holds each parameter (its ``id``), and the parameter group in which it does."""
        return {
            id(parameter): (optimizer, group)
            for optimizer in reversed(self.known)
            for group in optimizer.param_groups
            for parameter in group['params']
        }

    def look_for_holders(self, parameters: Collection[int]) -> set[int]:
        """Return those of some parameters (their ``id``) that any optimizer of this process holds, stepping or not.

        It looks at every object there is, which takes a tenth of a second or so: for the rare case that something
        seems to be held by none. The optimizers that it finds are known from then on.
        """
        wanted, found = set(parameters), set()
        for thing in gc.get_objects():
            # Not isinstance: some objects run code of their own when they are asked for their class.
            if issubclass(type(thing), Optimizer):
                groups = getattr(thing, 'param_groups', None) or []
                held = {id(parameter) for group in groups for parameter in group['params']} & wanted
                if held:
                    _add(self._known, thing)
                found |= held
        return found


def _add(entries: list[weakref.ref[Optimizer]], optimizer: Optimizer) -> None:
    if all(entry() is not optimizer for entry in entries):
        entries.append(weakref.ref(optimizer))
