"""Gradients of a scaled loss: what they are still multiplied by, and when a ``GradScaler`` steps an optimizer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from torch import Tensor
from torch.optim import Optimizer

from ding_normmon.core.observed_function import ObservedFunction, observed

__all__ = ['LossScaling', 'find_scalers', 'scaler_steps_observed']


class _Listener(Protocol):
    def enter_scaler(self) -> None: ...

    def leave_scaler(self, raised: bool) -> None: ...

    def unscaled(self) -> None: ...


def find_scalers(owner: Any) -> list[Any]:
    """Return the gradient scalers among an object's attributes."""
    return [value for value in vars(owner).values() if hasattr(value, 'unscale_') and hasattr(value, 'get_scale')]


class LossScaling:
    """What the gradients of each optimizer are still multiplied by.

    Arguments:
        scalers: tells which gradient scalers there are.

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
        self._scalers = scalers
        # The optimizers (their id) that a scaler has been seen to step, and those that stepped without.
        self._scaled: set[int] = set()
        self._plain: set[int] = set()

    def scalers(self) -> list[Any]:
        """Return the gradient scalers there are."""
        return list(self._scalers())

    def scale(self) -> Tensor | float | None:
        """Return what losses are multiplied by at the moment; None where no scaler is in use."""
        for scaler in self._scalers():
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
        for scaler in self._scalers():
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
def scaler_steps_observed(scaler: Any, optimizer: Optimizer, listener: _Listener) -> Iterator[None]:
    """Tell ``listener`` when the scaler steps this optimizer, and when it has unscaled its gradients."""

    def means_us(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        meant = args[1] if len(args) > 1 else kwargs.get('optimizer')
        return bool(args) and args[0] is scaler and meant is optimizer

    def around_step(step: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not means_us(args, kwargs):
            return step(*args, **kwargs)
        listener.enter_scaler()
        raised = True
        try:
            result = step(*args, **kwargs)
            raised = False
            return result
        finally:
            listener.leave_scaler(raised)

    def around_unscale(unscale: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = unscale(*args, **kwargs)
        if means_us(args, kwargs):
            listener.unscaled()
        return result

    kind = type(scaler)
    functions = [(ObservedFunction.of(kind.step), around_step), (ObservedFunction.of(kind.unscale_), around_unscale)]
    with observed(functions):
        yield
