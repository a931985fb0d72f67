"""Observes the calls that clip gradients, under any name.

Neither ``torch.nn.utils.clip_grad_norm_`` nor its relatives have a hook, and people import them by name into any module
before the monitor is there. The function objects themselves are observed (``core/observed_function.py``), so a call is
seen wherever the function was imported, bound or wrapped. Lightning, ``accelerate`` and DI-engine's optimizers end in
the same functions.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from numbers import Real
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ding_normmon.core.observed_function import ObservedFunction, observed
from ding_normmon.core.sharding import is_sharded, replicated_value
from ding_normmon.metrics.clip_coefficient import clip_coefficient

__all__ = ['ClipListener', 'clip_calls_observed']

Coefficient = Callable[[], 'Tensor | float']


class ClipListener(Protocol):
    """Listener of clip calls."""

    def before_clip(self, parameters: list[Tensor]) -> None:
        """Called before the gradients of these parameters are clipped."""

    def after_clip(self, parameters: list[Tensor], coefficient: Coefficient | None) -> None:
        """Called after it, with the values that determine the factor; None if there is no single factor."""


class _Kind(NamedTuple):
    """How a clip function changes gradients: ``by_norm`` multiplies all by one factor, ``drops`` by 1 or 0."""

    by_norm: bool
    drops: bool = False


_FUNCTIONS = (
    ('torch.nn.utils', 'clip_grad_norm_', _Kind(by_norm=True)),
    ('torch.nn.utils', 'clip_grads_with_norm_', _Kind(by_norm=True)),
    ('torch.nn.utils', 'clip_grad_value_', _Kind(by_norm=False)),
    ('torch.nn.utils.clip_grad', 'clip_grad_norm_', _Kind(by_norm=True)),
    ('torch.nn.utils.clip_grad', 'clip_grad_value_', _Kind(by_norm=False)),
    ('ding.torch_utils.optimizer_helper', 'grad_ignore_norm', _Kind(by_norm=True, drops=True)),
    ('ding.torch_utils.optimizer_helper', 'grad_ignore_value', _Kind(by_norm=False)),
)
"""Module, name and kind of torch's own, and of DI-engine's that drop a gradient which is too large."""


@contextlib.contextmanager
def clip_calls_observed(listener: ClipListener) -> Iterator[None]:
    """Tell ``listener`` of every clip call until the block ends."""
    announcement = _Announcement(listener)
    kinds: dict[ObservedFunction, _Kind] = {}
    for module, name, kind in _FUNCTIONS:
        function = ObservedFunction.of(getattr(sys.modules.get(module), name, None))
        if function is not None:
            kinds[function] = kind
    with observed((function, announcement.of_kind(kind)) for function, kind in kinds.items()):
        yield


class _Announcement:
    """Tells one listener of the outermost of the clip calls that call each other."""

    def __init__(self, listener: ClipListener) -> None:
        self._listener = listener
        self._inside = threading.local()

    def of_kind(self, kind: _Kind) -> Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]:
        """Return what is called around every call of a function."""

        def around(clip: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if getattr(self._inside, 'a_call', False) or not (args or 'parameters' in kwargs):
                return clip(*args, **kwargs)
            given = args[0] if args else kwargs['parameters']
            parameters = [given] if isinstance(given, Tensor) else list(given)
            if not isinstance(given, (Tensor, list, tuple)):
                # An iterator is empty now; torch warns of one that was empty before.
                given = parameters or iter(())
            if args:
                args = (given, *args[1:])
            else:
                kwargs = {**kwargs, 'parameters': given}
            self._inside.a_call = True
            try:
                self._listener.before_clip(parameters)
                result = clip(*args, **kwargs)
                self._listener.after_clip(parameters, _coefficient(kind, result, args, kwargs))
            finally:
                self._inside.a_call = False
            return result

        return around


def _coefficient(kind: _Kind, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Coefficient | None:
    if not kind.by_norm:
        return None
    # They return the norm, but for torch's that is given it as its third argument.
    total_norm = result if result is not None else kwargs.get('total_norm', args[2] if len(args) > 2 else None)
    # It is the second parameter of each of these functions.
    max_norm = kwargs.get('max_norm', args[1] if len(args) > 1 else None)
    if not _is_number(total_norm) or not _is_number(max_norm):
        return None

    def factor() -> Tensor | float:
        with torch.no_grad():
            coefficient = clip_coefficient(_number(total_norm), _number(max_norm))
            # What is ignored is not made smaller but dropped.
            return (coefficient >= 1) * 1.0 if kind.drops else coefficient

    return factor


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and replicated_value(value) is not None
    return isinstance(value, (Real, np.number)) or (isinstance(value, np.ndarray) and value.size == 1)


def _number(value: Any) -> Tensor | float:
    """Return one number; what lies on a device stays there."""
    if isinstance(value, Tensor) and (is_sharded(value) or value.device.type != 'cpu'):
        return value.detach()
    return float(value)
