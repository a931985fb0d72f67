"""The path of accelerators, taken on a CPU, and the operations that would be launches there."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ding_normmon.metrics.kernels import bit_sums
from ding_normmon.metrics.kernels.squares import sums
from ding_normmon.metrics.kernels.squares.device import DeviceSums
from ding_normmon.rows.buffer import RowBuffer

__all__ = ['Operations', 'take_accelerators_path']


def take_accelerators_path(monkeypatch: pytest.MonkeyPatch, capacity: int = 512) -> None:
    """Have rows stay on the device and travel in one copy, and sums of squares be made as there.

    Arguments:
        monkeypatch: undoes it.
        capacity: rows that the buffer begins with.
    """
    allocate = RowBuffer._allocate

    def not_on_host(self: RowBuffer, cells: int, rows: int) -> None:
        self.on_host = False
        allocate(self, cells, max(rows, capacity))

    monkeypatch.setattr(RowBuffer, '_allocate', not_on_host)
    monkeypatch.setattr(bit_sums, '_is_on_host', lambda tensor: False)
    monkeypatch.setattr(sums, 'HostSums', lambda templates: DeviceSums(templates, torch.device('cpu')))


class Operations(TorchDispatchMode):
    """Counts the operations inside it that compute or copy something; views are free.

    Attributes:
        counts: by name of the operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        returns = function._schema.returns
        aliased = bool(returns) and all(entry.alias_info is not None for entry in returns)
        written = any(entry.alias_info is not None and entry.alias_info.is_write for entry in returns)
        if not (aliased and not written) and not _is_the_same(result, args):
            self.counts[str(function)] += 1
        return result

    @property
    def total(self) -> int:
        """How many there were."""
        return sum(self.counts.values())


def _is_the_same(result: Any, args: Any) -> bool:
    """Tell whether an operation that is no view by its signature has given its own argument back."""
    first = args[0] if args else None
    return (
        isinstance(result, Tensor)
        and isinstance(first, Tensor)
        and result is not first
        and result.untyped_storage()._cdata == first.untyped_storage()._cdata
    )
