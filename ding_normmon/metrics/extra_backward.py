"""Extra backward passes that a metric makes in the middle of a training step.

Such a pass goes through the user's graph and runs everything attached to it: gradient hooks, and inside a checkpoint
the forward pass again, which updates BatchNorm's statistics, advances generators and calls forward hooks. State that
can be restored is restored to the last bit; if user code would run again, the pass is refused.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ding_normmon.core.observed_function import ObservedFunction

__all__ = ['ExtraBackward']

Key = TypeVar('Key', bound=Hashable)

_CHECKPOINT = 'torch.utils.checkpoint'
_HARMLESS = ('ding_normmon.', 'torch.nn.utils.')
"""Hooks of these modules change only buffers, which are restored."""


class ExtraBackward:
    """The extra backward passes of one monitor.

    Arguments:
        model: the model that is being trained.
        device: where it lies.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._listening = 0
        self._hooked: list[tuple[Any, str]] = []
        self._packs: str | None = None
        self._recomputes = False
        self._searched: set[Hashable] = set()

    # -- noting what is attached to the graph -----------------------------------------------------------------------

    def begin(self) -> None:
        """Start to note what is attached to the graph of this step's forward pass."""
        self._listening += 1
        if self._listening > 1:
            return
        for function, listener in self._observed():
            function.add(listener)
        _retain_grad_calls.add(self._note_retained)

    def release(self) -> None:
        """Stop, and forget what was noted."""
        if not self._listening:
            return
        self._listening -= 1
        if self._listening:
            return
        for function, listener in self._observed():
            function.remove(listener)
        _retain_grad_calls.remove(self._note_retained)
        self._hooked.clear()
        self._packs, self._recomputes = None, False

    def _observed(self) -> Iterator[tuple[ObservedFunction, Callable[..., Any]]]:
        for function, listener in (
            (Tensor.register_hook, self._around_register_hook),
            (saved_tensors_hooks.__enter__, self._around_saved_tensors_hooks),
        ):
            found = ObservedFunction.of(function)
            if found is not None:
                yield found, listener

    def _around_register_hook(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hook = args[1] if len(args) > 1 else kwargs.get('hook')
        tensor = args[0] if args else None
        if isinstance(tensor, Tensor) and tensor.grad_fn is not None and not _is_harmless(hook):
            self._hooked.append((tensor.grad_fn, f'a gradient hook on a tensor of the forward pass ({_name(hook)})'))
        return call(*args, **kwargs)

    def _around_saved_tensors_hooks(
        self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if args and type(args[0]).__module__ == _CHECKPOINT:
            self._recomputes = True
        elif args:
            self._packs = f'hooks on saved tensors ({type(args[0]).__name__})'
        return call(*args, **kwargs)

    def _note_retained(self, tensor: Tensor) -> None:
        if tensor.grad_fn is not None:
            self._hooked.append((tensor.grad_fn, 'retain_grad() on a tensor of the forward pass'))

    def refusal(self, losses: Mapping[Key, Tensor]) -> str | None:
        """Return why these losses cannot be differentiated without side effects; None if they can.

        The graph of a loss is searched when its key is seen for the first time, and whenever tensors have hooks.
        """
        top = getattr(torch._C._autograd, '_top_saved_tensors_default_hooks', None)
        if self._packs is None and top is not None and top(True) is not None:
            self._packs = 'hooks on saved tensors'
        found = self._packs or self._hooks_of_modules()
        for key, loss in losses.items():
            if found is not None or (key in self._searched and not self._hooked):
                continue
            self._searched.add(key)
            nodes = _nodes_of(loss)
            if any(node.name() == 'CheckpointFunctionBackward' for node in nodes):
                # Parameters inside the checkpoint are not in the graph: autograd raises if it passes the checkpoint,
                # and otherwise silently reports that the loss does not depend on them.
                return (
                    'parameters inside a reentrant checkpoint have no gradient of one loss; use '
                    'checkpoint(..., use_reentrant=False)'
                )
            found = next((what for node, what in self._hooked if node in nodes), None)
            if any(node.name() == 'BackwardHookFunctionBackward' for node in nodes):
                found = 'a backward hook of a module'
        if found is None:
            return None
        return f'a further backward pass would run {found} once more, which may change the training'

    def _hooks_of_modules(self) -> str | None:
        everywhere = vars(torch.nn.modules.module)
        kinds = [('backward', '_backward_hooks'), ('backward', '_backward_pre_hooks')]
        if self._recomputes:
            kinds += [('forward', '_forward_hooks'), ('forward', '_forward_pre_hooks')]
        for kind, attribute in kinds:
            if _not_harmless(everywhere.get(f'_global{attribute}', {})):
                return f'a {kind} hook of all modules'
        for name, module in self._model.named_modules():
            for kind, attribute in kinds:
                hooks = _not_harmless(getattr(module, attribute))
                if hooks:
                    where = name or type(module).__name__
                    return f'a {kind} hook of the module {where} ({_name(hooks[0])})'
        return None

    # -- restoring state --------------------------------------------------------------------------------------------

    def gradients(self, loss: Tensor, parameters: Sequence[nn.Parameter]) -> tuple[Tensor | None, ...]:
        """Return the gradient of a loss, without the hooks of the parameters; None if it does not depend on one.

        The graph is kept, no ``.grad`` is touched, and buffers and generators are restored.
        """
        with self._buffers_kept(), self._generators_kept(), _hooks_off(parameters):
            found: tuple[Tensor | None, ...] = torch.autograd.grad(
                loss, parameters, retain_graph=True, allow_unused=True
            )
            return found

    @contextlib.contextmanager
    def _buffers_kept(self) -> Iterator[None]:
        kept = [
            (module._buffers, name, buffer, buffer.detach().clone())
            for module in self._model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        try:
            yield
        finally:
            for buffers, name, buffer, value in kept:
                buffers[name] = buffer
                # Through `data`: autograd would otherwise see a buffer that was changed after it was used.
                buffer.data.copy_(value)

    @contextlib.contextmanager
    def _generators_kept(self) -> Iterator[None]:
        undo: list[tuple[Callable[[Any], Any], Any]] = [
            (torch.set_rng_state, torch.get_rng_state()),
            (random.setstate, random.getstate()),
            (np.random.set_state, np.random.get_state()),
        ]
        accelerator: Any = getattr(torch, self._device.type, None)
        if self._device.type != 'cpu' and hasattr(accelerator, 'get_rng_state'):
            undo.append((accelerator.set_rng_state, accelerator.get_rng_state()))
        for module in self._model.modules():
            for value in vars(module).values():
                if isinstance(value, torch.Generator):
                    undo.append((value.set_state, value.get_state()))
                elif isinstance(value, np.random.Generator):
                    undo.append((partial(setattr, value.bit_generator, 'state'), value.bit_generator.state))
                elif isinstance(value, np.random.RandomState):
                    undo.append((value.set_state, value.get_state()))
                elif isinstance(value, random.Random):
                    undo.append((value.setstate, value.getstate()))
        try:
            yield
        finally:
            for restore, state in undo:
                restore(state)


@contextlib.contextmanager
def _hooks_off(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Disable the gradient hooks of parameters inside the block, by emptying the dict that torch reads."""
    taken: list[tuple[dict[int, Any], dict[int, Any]]] = []
    for parameter in parameters:
        hooks = parameter._backward_hooks
        if hooks:
            taken.append((hooks, dict(hooks)))
            hooks.clear()
    try:
        yield
    finally:
        for hooks, earlier in taken:
            hooks.update(earlier)


class _RetainGradCalls:
    """Observes ``tensor.retain_grad()``, which is written in C, through a method that hides it."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[Tensor], None]] = []
        self._lock = threading.Lock()

    def add(self, listener: Callable[[Tensor], None]) -> None:
        """Call ``listener`` from now on."""
        with self._lock:
            self._listeners.append(listener)
            if len(self._listeners) == 1:
                # Torch's own method stays in the base class.
                setattr(Tensor, 'retain_grad', lambda tensor: self._called(tensor))  # noqa: B010

    def remove(self, listener: Callable[[Tensor], None]) -> None:
        """Stop calling ``listener``."""
        with self._lock:
            self._listeners.remove(listener)
            if not self._listeners:
                delattr(Tensor, 'retain_grad')

    def _called(self, tensor: Tensor) -> None:
        for listener in list(self._listeners):
            listener(tensor)
        torch._C.TensorBase.retain_grad(tensor)


_retain_grad_calls = _RetainGradCalls()


def _not_harmless(hooks: Mapping[Any, Any]) -> list[Any]:
    return [hook for hook in hooks.values() if not _is_harmless(hook)]


def _is_harmless(hook: Any) -> bool:
    # A function, a method, or an object that is called.
    module = getattr(hook, '__module__', None) or type(hook).__module__
    return f'{module}.'.startswith(_HARMLESS)


def _name(hook: Any) -> str:
    return str(getattr(hook, '__qualname__', type(hook).__name__))


def _nodes_of(loss: Tensor) -> set[Any]:
    waiting = [loss.grad_fn]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        fresh = {following for following, _ in node.next_functions} - seen
        seen |= fresh
        waiting += fresh
    return seen - {None}
