"""The steps of one optimizer, whether it steps by itself, with a closure, or by a ``GradScaler``."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from torch import Tensor
from torch.optim import Optimizer

__all__ = ['Holder', 'StepListener', 'Stepping', 'one_at_a_time']


@dataclass(frozen=True)
class Holder:
    """An optimizer and the monitored parameters that it holds (their ``id``)."""

    name: str
    optimizer: Optimizer
    parameters: frozenset[int]


class StepListener(Protocol):
    """Who tells from what happens where one learner step ends and the next begins."""

    def differentiates(self, roots: Sequence[Any]) -> None:
        """Called before a backward pass from these tensors, which may be of another model."""

    def clips(self, parameters: Set[int]) -> None:
        """Called before the gradients of these monitored parameters (their ``id``) are clipped."""

    def steps(self, holder: Holder) -> None:
        """Called before an optimizer steps, or evaluates the closure that it steps with."""

    def stepped(self, holder: Holder) -> None:
        """Called when an optimizer has moved the weights."""

    def skipped(self, holder: Holder) -> None:
        """Called when a ``GradScaler`` has left an optimizer's step out, or taken it back."""


class _Points(Protocol):
    lock: threading.RLock

    @property
    def holders_watched(self) -> tuple[Holder, ...]: ...

    def note_step(self, holder: Holder, by_scaler: bool) -> None: ...

    def note_scaler(self, holder: Holder, scaler: Any) -> None: ...

    def conclude(self, holders: Iterable[Holder], evidence: str) -> None: ...

    def compare(self, holder: Holder) -> None: ...

    def read_gradients(self, reached: Set[int] | None) -> None: ...


Method = TypeVar('Method', bound=Callable[..., Any])


def one_at_a_time(method: Method) -> Method:
    """Let only one thread at a time into the methods of an object that has a ``lock``."""

    @functools.wraps(method)
    def entered(self: Any, *args: Any) -> Any:
        with self.lock:
            return method(self, *args)

    return cast(Method, entered)


class Stepping:
    """Hears of one optimizer's steps, and tells the hook points and whoever tells learner steps apart.

    Arguments:
        points: the hook points.
        holder: the optimizer.
        listener: who tells learner steps apart.
    """

    def __init__(self, points: _Points, holder: Holder, listener: StepListener) -> None:
        self.lock = points.lock
        self._points = points
        self._watched = holder
        self._listener = listener
        self._by_scaler = False
        self._moved = False

    @property
    def _holder(self) -> Holder:
        # Its parameters are others where the model's were replaced.
        name = self._watched.name
        return next((holder for holder in self._points.holders_watched if holder.name == name), self._watched)

    @one_at_a_time
    def enter(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Begin a step of the optimizer; return its arguments where one of them has to be another."""
        self._points.note_step(self._holder, self._by_scaler)
        self._listener.steps(self._holder)
        # The hook is given the optimizer itself as the first argument as well.
        closure = kwargs.get('closure', args[1] if len(args) > 1 else None)
        if not callable(closure):
            self._points.conclude([self._holder], 'scaler' if self._by_scaler else 'step')
            return None
        # Its gradients do not exist before it has been called; where it clips them, the clip call comes first.
        watched = self._watched_closure(closure)
        if 'closure' in kwargs:
            return args, {**kwargs, 'closure': watched}
        return (args[0], watched, *args[2:]), kwargs

    def _watched_closure(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def evaluate() -> Any:
            loss = closure()
            # Further evaluations, as LBFGS makes them, are at other weights than those of the learner step.
            with self.lock:
                self._points.conclude([self._holder], 'step')
            return loss

        return evaluate

    @one_at_a_time
    def leave(self, *_: Any) -> None:
        """End a step of the optimizer."""
        self._moved = True
        self._points.compare(self._holder)
        if self._by_scaler and _found_inf(self._watched.optimizer):
            self._listener.skipped(self._holder)
        else:
            self._listener.stepped(self._holder)

    @one_at_a_time
    def enter_scaler(self, scaler: Any) -> None:
        """Begin a scaler's step, which may leave the optimizer's out."""
        self._points.note_scaler(self._watched, scaler)
        self._by_scaler, self._moved = True, False

    @one_at_a_time
    def unscaled(self, scaler: Any) -> None:
        """Read the gradients again, which a scaler has divided by its scale."""
        self._points.note_scaler(self._watched, scaler)
        self._points.read_gradients(self._holder.parameters)

    @one_at_a_time
    def leave_scaler(self, raised: bool) -> None:
        """End the scaler's step."""
        self._by_scaler = False
        if not self._moved and not raised:
            self._listener.skipped(self._holder)


def _found_inf(optimizer: Optimizer) -> bool:
    """Tell whether a fused optimizer, which a scaler always steps, was told to move nothing."""
    found = getattr(optimizer, 'found_inf', None)
    # What lies on an accelerator is not waited for.
    return isinstance(found, Tensor) and found.device.type == 'cpu' and float(found) > 0
