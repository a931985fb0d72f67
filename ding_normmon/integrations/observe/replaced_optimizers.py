"""Noticing that an optimizer has taken the place of one that is watched, whose own steps then end."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch.optim import Optimizer

from ding_normmon.core.observed_function import ObservedFunction, observed

__all__ = ['replaced_optimizers_noticed']

_STEPS = 3
"""Steps of a successor without one of the watched optimizer. A wrapper of it steps too, but never more often."""


@contextlib.contextmanager
def replaced_optimizers_noticed(
    watched: Mapping[str, Optimizer], notice: Callable[[str, Optimizer], object]
) -> Iterator[None]:
    """Call ``notice`` once for each watched optimizer that has stepped, and whose parameters another one now moves.

    Arguments:
        watched: the optimizers by name.
        notice: is given the name of the watched one, and its successor.
    """
    names = {id(optimizer): name for name, optimizer in watched.items()}
    silent_for: dict[str, int] = {}
    sharing: weakref.WeakKeyDictionary[Optimizer, set[str]] = weakref.WeakKeyDictionary()

    def around(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        optimizer: Optimizer = args[0]
        if id(optimizer) in names:
            silent_for[names[id(optimizer)]] = 0
            return call(*args, **kwargs)
        if optimizer not in sharing:
            own = _parameters(optimizer)
            sharing[optimizer] = {name for name, other in watched.items() if own & _parameters(other)}
        for name in sharing[optimizer] & silent_for.keys():
            silent_for[name] += 1
            if silent_for[name] == _STEPS:
                notice(name, optimizer)
        return call(*args, **kwargs)

    # The steps of all optimizers, of whatever class, end with a call of this function, which does nothing.
    with observed([(ObservedFunction.of(getattr(Optimizer, '_optimizer_step_code', None)), around)]):
        yield


def _parameters(optimizer: Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group['params']}
