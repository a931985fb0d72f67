"""Observes that ranks exchange tensors between the end of a backward pass and the optimizer's step."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from ding_normmon.core.observed_function import ObservedFunction, observed

__all__ = ['CollectiveListener', 'collectives_observed']

_NAMES = (
    'all_gather',
    'all_gather_into_tensor',
    'all_reduce',
    'all_reduce_coalesced',
    'all_to_all',
    'all_to_all_single',
    'broadcast',
    'reduce',
    'reduce_scatter',
    'reduce_scatter_tensor',
)
"""Functions of ``torch.distributed`` that are used to sum gradients."""


class CollectiveListener(Protocol):
    """Listener of collectives."""

    def collective(self) -> None:
        """Called when this process takes part in one."""


@contextlib.contextmanager
def collectives_observed(listener: CollectiveListener) -> Iterator[None]:
    """Tell ``listener`` of the collectives that Python code calls, on several ranks, until the block ends.

    What torch does within a backward pass (``DistributedDataParallel``, FSDP) is no such call.
    """
    module = sys.modules.get('torch.distributed.distributed_c10d')
    if module is None or not module.is_initialized() or module.get_world_size() < 2:
        yield
        return

    def around(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        listener.collective()
        return call(*args, **kwargs)

    with observed((ObservedFunction.of(getattr(module, name, None)), around) for name in _NAMES):
        yield
