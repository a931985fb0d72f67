"""Seeing the calls that clip gradients, for as long as a step is watched.

Neither ``torch.nn.utils.clip_grad_norm_`` nor its relatives have a hook, so the names under which they can be called
are bound to a function that announces the call and then makes it: in ``torch.nn.utils``, and in the modules that
imported them by name. Everything is put back at the end.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor

from ding_normmon.core.sharding import replicated_value
from ding_normmon.metrics.clipping import clip_coefficient

__all__ = ['ClipListener', 'clip_calls_observed', 'modules_of']

CLIP_FUNCTIONS = ('clip_grad_norm_', 'clip_grad_value_', 'grad_ignore_norm', 'grad_ignore_value')
"""torch's own, and DI-engine's that drop a gradient which is too large."""


class ClipListener(Protocol):
    """Who hears of clip calls."""

    def before_clip(self, parameters: list[Tensor]) -> None:
        """Called before the gradients of these parameters are clipped."""

    def after_clip(self, parameters: list[Tensor], coefficient: Callable[[], Tensor | float] | None) -> None:
        """Called after it, with what tells the factor that was applied; None where there is not one factor for all."""


def modules_of(*objects: Any) -> list[ModuleType]:
    """Return the modules in which the classes of these objects, and those they inherit from, are written."""
    names = {cls.__module__: None for thing in objects for cls in type(thing).__mro__ if cls is not object}
    return [sys.modules[name] for name in names if name in sys.modules]


@contextlib.contextmanager
def clip_calls_observed(listener: ClipListener, modules: Iterable[ModuleType]) -> Iterator[None]:
    """Tell ``listener`` of every clip call made through ``torch.nn.utils`` or one of ``modules``."""
    places = [torch.nn.utils, sys.modules['torch.nn.utils.clip_grad'], *modules]
    depth = [0]
    with contextlib.ExitStack() as undo:
        for place in {id(place): place for place in places}.values():
            for name in CLIP_FUNCTIONS:
                original = vars(place).get(name)
                if callable(original):
                    undo.callback(setattr, place, name, original)
                    setattr(place, name, _announced(original, name, listener, depth))
        yield


def _announced(original: Callable[..., Any], name: str, listener: ClipListener, depth: list[int]) -> Callable[..., Any]:
    def clip(parameters: Tensor | Iterable[Tensor], *args: Any, **kwargs: Any) -> Any:
        if depth[0]:
            # A clip function that calls another one: the outer call was announced.
            return original(parameters, *args, **kwargs)
        listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        listener.before_clip(listed)
        depth[0] += 1
        try:
            result = original(listed, *args, **kwargs)
        finally:
            depth[0] -= 1
        # It is the second parameter of each of these functions.
        max_norm = args[0] if args else kwargs.get('max_norm')
        listener.after_clip(listed, _coefficient(name, result, max_norm))
        return result

    return clip


def _coefficient(name: str, norm: Any, max_norm: Any) -> Callable[[], Tensor | float] | None:
    if 'norm' not in name or not isinstance(norm, (Tensor, int, float)) or not isinstance(max_norm, (int, float)):
        return None
    if isinstance(norm, Tensor) and replicated_value(norm) is None:
        return None

    def factor() -> Tensor | float:
        with torch.no_grad():
            coefficient = clip_coefficient(norm, float(max_norm))
            # What is ignored is not made smaller but dropped.
            return coefficient if name.startswith('clip') else (coefficient >= 1) * 1.0

    return factor
