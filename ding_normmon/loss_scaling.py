"""Gradients of a scaled loss: what they are still multiplied by, and when a ``GradScaler`` steps an optimizer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from torch import Tensor
from torch.optim import Optimizer

__all__ = ['find_scalers', 'scale_of', 'scaler_steps_observed']


class _Listener(Protocol):
    def enter_scaler(self) -> None: ...

    def leave_scaler(self) -> None: ...


def find_scalers(owner: Any) -> list[Any]:
    """Return the gradient scalers among an object's attributes."""
    return [value for value in vars(owner).values() if hasattr(value, 'unscale_') and hasattr(value, 'get_scale')]


def scale_of(scalers: Iterable[Any], optimizer: Optimizer | None, scaled: set[int], evidence: str) -> Tensor | float:
    """Return what an optimizer's gradients are still multiplied by; a tensor where that lies on the device.

    Arguments:
        scalers: the gradient scalers there are.
        optimizer: whose gradients; None where nobody holds them.
        scaled: the optimizers (their ``id``) that a scaler has been seen to step; it is kept up to date here.
        evidence: how the end of the backward pass was found.
    """
    for scaler in scalers:
        scale = getattr(scaler, '_scale', None)
        if not scaler.is_enabled() or scale is None:
            continue
        if evidence == 'scaler' and optimizer is not None:
            scaled.add(id(optimizer))
        # Whoever steps an optimizer without the scaler has gradients of a loss that was never scaled.
        if evidence == 'step' or (scaled and optimizer is not None and id(optimizer) not in scaled):
            return 1.0
        state = scaler._per_optimizer_states.get(id(optimizer))
        if state is None or getattr(state['stage'], 'name', 'READY') == 'READY':
            return scale if isinstance(scale, Tensor) else float(scale)
    return 1.0


@contextlib.contextmanager
def scaler_steps_observed(scaler: Any, optimizer: Optimizer, listener: _Listener) -> Iterator[None]:
    """Tell ``listener`` when the scaler steps this optimizer."""
    before = vars(scaler).get('step')
    step = scaler.step

    def observed_step(stepped: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if stepped is not optimizer:
            return step(stepped, *args, **kwargs)
        listener.enter_scaler()
        try:
            return step(stepped, *args, **kwargs)
        finally:
            listener.leave_scaler()

    scaler.step = observed_step
    try:
        yield
    finally:
        if before is None:
            del scaler.step
        else:
            scaler.step = before
