"""Finds the optimizers that move weights inside wrappers of optimizers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch.optim import Optimizer

__all__ = ['stepping_optimizers']


def stepping_optimizers(thing: Any) -> list[Optimizer]:
    """Return the optimizers inside an object whose ``step`` moves the weights; none if it has no optimizer.

    The wrappers of ``accelerate`` and Lightning, SAM, Lookahead and combinations of several optimizers keep the real
    ones as attributes, or in a list or mapping. An optimizer without one inside is returned itself, and so is one that
    holds more than those inside of it.

    Arguments:
        thing: an optimizer, or an object around one.

    Example:
        >>> import torch
        >>> class SAM(torch.optim.Optimizer):
        ...     def __init__(self, parameters):
        ...         super().__init__(parameters, {})
        ...         self.base_optimizer = torch.optim.SGD(self.param_groups, lr=0.1)
        >>> [type(optimizer).__name__ for optimizer in stepping_optimizers(SAM([torch.nn.Parameter(torch.ones(1))]))]
        ['SGD']
    """
    return list({id(optimizer): optimizer for optimizer in _innermost(thing, set())}.values())


def _innermost(thing: Any, seen: set[int]) -> Iterator[Optimizer]:
    if id(thing) in seen:
        return
    seen.add(id(thing))
    found = [optimizer for inner in _inside(thing) for optimizer in _innermost(inner, seen)]
    if isinstance(thing, Optimizer):
        own = _parameters(thing)
        # One of another model is kept for some other reason.
        found = [optimizer for optimizer in found if not own or _parameters(optimizer) & own]
        if own - set().union(*map(_parameters, found)):
            # The rest it moves itself, as ZeroRedundancyOptimizer does with what other ranks have stepped.
            found = []
    yield from found or ([thing] if isinstance(thing, Optimizer) else [])


def _inside(thing: Any) -> Iterator[Any]:
    for name, value in getattr(thing, '__dict__', {}).items():
        if name in ('state', 'param_groups', 'defaults'):
            continue
        if isinstance(value, Optimizer):
            yield value
        elif isinstance(value, (list, tuple, Mapping)):
            entries = value.values() if isinstance(value, Mapping) else value
            yield from (entry for entry in entries if isinstance(entry, Optimizer))


def _parameters(optimizer: Optimizer) -> set[int]:
    groups = getattr(optimizer, 'param_groups', None) or []
    return {id(parameter) for group in groups for parameter in group['params']}
