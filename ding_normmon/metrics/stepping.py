"""Observes which optimizers step and what they hold, by torch's own hook, whatever attribute they are kept in.

The hook is there in measured steps only; where several threads train it stays. An optimizer that has stepped once is
known from then on.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Collection, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ding_normmon.core.backward_passes import note_thread, several_threads

__all__ = ['SteppingOptimizers']


class _Hook:
    """The one hook of this process on all optimizers, and its listeners.

    Torch raises in a thread that steps while another one adds a hook or takes one off. So where several threads train,
    the hook stays once it is there.
    """

    _lock = threading.Lock()
    _handle: Any = None
    _watching: tuple[SteppingOptimizers, ...] = ()

    @classmethod
    def add(cls, watching: SteppingOptimizers) -> None:
        note_thread()
        with cls._lock:
            cls._watching = (*cls._watching, watching)
            if cls._handle is None:
                cls._handle = register_optimizer_step_pre_hook(cls._steps)

    @classmethod
    def remove(cls, watching: SteppingOptimizers) -> None:
        with cls._lock:
            cls._watching = tuple(entry for entry in cls._watching if entry is not watching)
            if not cls._watching and not several_threads():
                cls._handle.remove()
                cls._handle = None

    @classmethod
    def _steps(cls, optimizer: Optimizer, *_: Any) -> None:
        for entry in cls._watching:
            entry.note(optimizer)


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
        self._watching = False
        self._holders: dict[int, tuple[Optimizer, dict[str, Any]]] | None = None
        self.any_stepped = False
        self.steps = 0

    def follow(self, parameters: Iterable[nn.Parameter]) -> None:
        """Take note of the model's parameters, also where others have taken the place of earlier ones."""
        self._own.update(id(parameter) for parameter in parameters)

    def watch(self) -> None:
        """Begin to watch a measured step, where that has not begun."""
        if not self._watching:
            self._stepped, self.any_stepped, self.steps = [], False, 0
            self._holders = None
            self._watching = True
            _Hook.add(self)

    def release(self) -> None:
        """End watching."""
        if self._watching:
            self._watching, self._holders = False, None
            _Hook.remove(self)

    def note(self, optimizer: Optimizer) -> None:
        """Take note of an optimizer that steps."""
        self.any_stepped = True
        if self._holds_any(optimizer):
            self.steps += 1
            if all(entry() is not optimizer for entry in self._stepped):
                self._stepped.append(weakref.ref(optimizer))
            self._learn_of(optimizer)

    def _learn_of(self, optimizer: Optimizer) -> None:
        if all(entry() is not optimizer for entry in self._known):
            self._known.append(weakref.ref(optimizer))
            self._holders = None

    def _holds_any(self, optimizer: Optimizer) -> bool:
        groups = getattr(optimizer, 'param_groups', None) or []
        return any(id(parameter) in self._own for group in groups for parameter in group['params'])

    @property
    def stepped(self) -> list[Optimizer]:
        """Those that have stepped in the current or last measured step."""
        return [optimizer for entry in self._stepped if (optimizer := entry()) is not None]

    def has_stepped(self, optimizer: Optimizer | None) -> bool:
        """Return whether an optimizer has stepped in the current or last measured step."""
        return optimizer is not None and any(entry() is optimizer for entry in self._stepped)

    @property
    def known(self) -> list[Optimizer]:
        """Every optimizer that has stepped in a measured step and still exists."""
        self._known = [entry for entry in self._known if entry() is not None]
        return [optimizer for entry in self._known if (optimizer := entry()) is not None]

    def holders(self) -> dict[int, tuple[Optimizer, dict[str, Any]]]:
        """Return the optimizer that holds each parameter (its ``id``), and the parameter group in which it does.

        Looked up once in a step that is watched, and again when an optimizer steps that was not known.
        """
        if self._holders is not None:
            return self._holders
        holders = {
            id(parameter): (optimizer, group)
            for optimizer in reversed(self.known)
            for group in optimizer.param_groups
            for parameter in group['params']
        }
        # Beyond the step it would keep optimizers alive.
        self._holders = holders if self._watching else None
        return holders

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
                    self._learn_of(thing)
                found |= held
        return found
