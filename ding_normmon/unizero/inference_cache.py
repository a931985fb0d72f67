"""Key-value caches for inference: one per environment history and one per node of a tree search.

LightZero keeps one set of such caches inside the world model, keyed by position in the batch, so two tasks that take
turns read each other's history. Here every (task, collect / eval / target) has its own cache object, which is swapped
into the world model for the duration of a call, and histories are keyed by environment id.

Keys and values are kept in tensors of shape (n, L, 2, H, C, D): n sequences, L layers, key and value, H heads, C tokens
(the context length), D features per head. Of the C tokens, the first ``size`` are valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lzero.model.unizero_world_models.kv_caching import KeysValues
from numpy.typing import NDArray
from torch import Tensor

__all__ = ['Context', 'InferenceCache', 'RowCollector', 'SearchNodes', 'pack', 'rows_of_equal_size', 'unpack']


@dataclass
class Context:
    """Keys and values of one sequence.

    Arguments:
        keys_values: (L, 2, H, C, D).
        size: number of valid tokens; 0 is an empty history.
    """

    keys_values: Tensor
    size: int


class SearchNodes:
    """Keys and values of the nodes of one batched tree search, looked up by the node's latent state.

    The search passes nothing but latent states, so a node is identified by the bytes of its latent state, as in
    LightZero. If two nodes of one tree have the same latent state, the later one is found.
    """

    def __init__(self) -> None:
        self._contexts: list[list[Context]] = []
        self._found: dict[tuple[int, bytes], int] = {}

    def clear(self) -> None:
        """Forget the search."""
        self._contexts.clear()
        self._found.clear()

    def add(self, latent_states: NDArray[Any], contexts: list[Context]) -> None:
        """Add one node per tree.

        Arguments:
            latent_states: (n, ...) latent state of the new node of each tree.
            contexts: n contexts that end in these states.
        """
        for tree, latent in enumerate(latent_states):
            self._found[(tree, latent.tobytes())] = len(self._contexts)
        self._contexts.append(contexts)

    def find(self, latent_states: NDArray[Any]) -> list[Context | None]:
        """Return the context of each tree's node with the latent state (n, ...), None if there is none."""
        found = (self._found.get((tree, latent.tobytes())) for tree, latent in enumerate(latent_states))
        return [None if index is None else self._contexts[index][tree] for tree, index in enumerate(found)]


@dataclass
class InferenceCache:
    """Inference caches of one task in one mode.

    Arguments:
        contexts: history of each environment by environment id.
        environment_ids: environment of each row of the next batch; None numbers them from 0.
        nodes: nodes of the current search.
    """

    contexts: dict[int, Context] = field(default_factory=dict)
    environment_ids: Sequence[int] | None = None
    nodes: SearchNodes = field(default_factory=SearchNodes)

    def clear(self) -> None:
        """Drop everything; it was computed with older weights."""
        self.contexts.clear()
        self.nodes.clear()

    def forget_environment(self, environment_id: int) -> None:
        """Forget the history of one environment; the others keep theirs."""
        self.contexts.pop(environment_id, None)


def pack(contexts: Sequence[Context], empty: KeysValues) -> KeysValues:
    """Fill LightZero's cache object with contexts of one common size.

    Arguments:
        contexts: n contexts of the same size.
        empty: a new cache object for n sequences; it is filled and returned.
    """
    size = contexts[0].size
    if size:
        stacked = torch.stack([context.keys_values for context in contexts])
        for layer in range(len(empty)):
            for index, cache in enumerate((empty[layer]._k_cache, empty[layer]._v_cache)):
                cache._cache[:, :, :size] = stacked[:, layer, index, :, :size]
                cache._size = size
    return empty


def unpack(keys_values: KeysValues) -> list[Context]:
    """Return the n contexts that LightZero's cache object holds, as views of one new tensor."""
    layers = [
        torch.stack((keys_values[layer]._k_cache._cache, keys_values[layer]._v_cache._cache), dim=1)
        for layer in range(len(keys_values))
    ]
    stacked = torch.stack(layers, dim=1)  # (n, L, 2, H, C, D)
    return [Context(row, keys_values.size) for row in stacked]


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
