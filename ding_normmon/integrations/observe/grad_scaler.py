"""Gradients of a scaled loss: what they are still multiplied by, and when a ``GradScaler`` steps an optimizer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from ding_normmon.core.observed_function import Around, ObservedFunction, observed

__all__ = ['LossScaling', 'find_scalers', 'scaler_steps_observed']


class _Listener(Protocol):
    def enter_scaler(self, scaler: Any) -> None: ...

    def leave_scaler(self, raised: bool) -> None: ...

    def unscaled(self, scaler: Any) -> None: ...


def find_scalers(owner: Any) -> list[Any]:
    """Return the gradient scalers among an object's attributes."""
    return [value for value in vars(owner).values() if hasattr(value, 'unscale_') and hasattr(value, 'get_scale')]


class LossScaling:
    """What the gradients of each optimizer are still multiplied by.

    Arguments:
        scalers: tells which gradient scalers are known; others are found when they unscale or step an optimizer.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> optimizer, scaler = torch.optim.SGD([weight], lr=0.1), torch.amp.GradScaler('cpu', init_scale=8.0)
        >>> scaler.scale(weight.sum()).backward()
        >>> scaling = LossScaling(lambda: [scaler])
        >>> float(scaling.of(optimizer, 'clip'))
        8.0
        >>> scaler.unscale_(optimizer)
        >>> scaling.of(optimizer, 'clip')
        1.0
    """

    def __init__(self, scalers: Callable[[], Iterable[Any]]) -> None:
        self._named = scalers
        # By optimizer (its id), the scaler that was seen to unscale or step it.
        self._found: dict[int, Any] = {}
        # The optimizers (their id) that a scaler has been seen to step, and those that stepped without.
        self._scaled: set[int] = set()
        self._plain: set[int] = set()

    def scalers(self) -> list[Any]:
        """Return the gradient scalers there are."""
        return list({id(scaler): scaler for scaler in (*self._named(), *self._found.values())}.values())

    def find(self, optimizer: Optimizer, scaler: Any) -> None:
        """Take note of the scaler of an optimizer."""
        self._found[id(optimizer)] = scaler

    def scale(self) -> Tensor | float | None:
        """Return what losses are multiplied by at the moment; None where no scaler is in use."""
        for scaler in self.scalers():
            scale = getattr(scaler, '_scale', None)
            if scaler.is_enabled() and scale is not None:
                return scale.detach() if isinstance(scale, Tensor) else float(scale)
        return None

    def note(self, optimizer: Optimizer, by_scaler: bool) -> None:
        """Take note of how an optimizer is stepped."""
        kind, other = (self._scaled, self._plain) if by_scaler else (self._plain, self._scaled)
        kind.add(id(optimizer))
        other.discard(id(optimizer))

    def of(self, optimizer: Optimizer | None, evidence: str) -> Tensor | float:
        """Return the scale of an optimizer's gradients; a tensor where that lies on the device.

        Arguments:
            optimizer: whose gradients; None where nobody holds them.
            evidence: how the end of the backward pass was found.
        """
        found = self._found.get(id(optimizer))
        for scaler in self.scalers() if found is None else [found]:
            scale = getattr(scaler, '_scale', None)
            if not scaler.is_enabled() or scale is None:
                continue
            # Whoever steps an optimizer without the scaler has gradients of a loss that was never scaled.
            if evidence == 'step' or self._is_plain(optimizer):
                return 1.0
            state = scaler._per_optimizer_states.get(id(optimizer))
            if state is None or getattr(state['stage'], 'name', 'READY') == 'READY':
                return scale if isinstance(scale, Tensor) else float(scale)
        return 1.0

    def _is_plain(self, optimizer: Optimizer | None) -> bool:
        if optimizer is None:
            return False
        # One that has not been seen to step is taken for plain where the scaler steps others.
        return id(optimizer) in self._plain or bool(self._scaled and id(optimizer) not in self._scaled)


@contextlib.contextmanager
def scaler_steps_observed(
    pairs: Iterable[tuple[Optimizer, _Listener]], scalers: Iterable[Any] = ()
) -> Iterator[None]:
    """Tell each listener when a scaler steps its optimizer, and when one has unscaled its gradients.

    Arguments:
        pairs: optimizers and who hears of them.
        scalers: some that are known; of their classes and of ``torch.amp.GradScaler`` all are heard of.
    """
    known = {id(optimizer): listener for optimizer, listener in pairs}

    def meant(args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Listener | None:
        return known.get(id(args[1] if len(args) > 1 else kwargs.get('optimizer')))

    def around_step(step: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        listener = meant(args, kwargs)
        if listener is None:
            return step(*args, **kwargs)
        listener.enter_scaler(args[0])
        raised = True
        try:
            result = step(*args, **kwargs)
            raised = False
            return result
        finally:
            listener.leave_scaler(raised)

    def around_unscale(unscale: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = unscale(*args, **kwargs)
        listener = meant(args, kwargs)
        if listener is not None:
            listener.unscaled(args[0])
        return result

    kinds: list[Any] = [torch.amp.GradScaler, *map(type, scalers)]
    around: dict[Any, Around] = {kind.step: around_step for kind in kinds}
    around.update((kind.unscale_, around_unscale) for kind in kinds)
    with observed((ObservedFunction.of(function), listener) for function, listener in around.items()):
        yield
