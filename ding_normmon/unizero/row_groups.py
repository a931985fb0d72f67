"""Splits a batch by the length of its rows' histories and puts the results back in order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ding_normmon.unizero.inference_cache import Context

__all__ = ['RowCollector', 'rows_of_equal_size']


class RowCollector:
    """Puts the results of groups of rows back into the order of the batch."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._parts: list[tuple[Sequence[int], tuple[Tensor, ...]]] = []
        self._contexts: dict[int, Context] = {}

    def put(self, rows: Sequence[int], contexts: list[Context], *tensors: Tensor) -> None:
        """Add the contexts and tensors (len(rows), ...) of some rows."""
        self._parts.append((rows, tensors))
        self._contexts.update(zip(rows, contexts, strict=True))

    @property
    def contexts(self) -> list[Context]:
        """The contexts of all rows."""
        return [self._contexts[row] for row in range(self._count)]

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the tensors (count, ...) of all rows."""
        if len(self._parts) == 1:
            return self._parts[0][1]
        order = torch.tensor([row for rows, _ in self._parts for row in rows]).argsort()
        return tuple(
            torch.cat(parts)[order.to(parts[0].device)]
            for parts in zip(*(tensors for _, tensors in self._parts), strict=True)
        )


def rows_of_equal_size(contexts: Sequence[Context]) -> list[list[int]]:
    """Group the rows of a batch by the length of their history.

    LightZero pads shorter histories with zero keys that take part in the attention, so a row's value depends on its
    neighbours in the batch. Rows of one length need no padding, and usually all rows have the same length.
    """
    rows: dict[int, list[int]] = {}
    for row, context in enumerate(contexts):
        rows.setdefault(context.size, []).append(row)
    return list(rows.values())
