"""Small signals wait for each other until the forward pass ends, and those of all tasks are measured in one go.

What a row of a few thousand numbers costs is the calls and not the numbers: inside a learner step, whose own work has
emptied the caches, the first calls after a task's forward pass cost ten times what they cost when repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ding_normmon.moments import Row, rows_of_segments

__all__ = ['MOST_ELEMENTS', 'SmallSignals', 'norms_of']

MOST_ELEMENTS = 1 << 16
"""Elements of a signal that is worth waiting; what more cost to read is more than what the calls cost."""

_MOST_BYTES = 1 << 20
"""Bytes that may wait at a time."""


class _Kind:
    """Signals that fit below each other, and those of them that wait.

    Arguments:
        name: of the signal.
        steps: T of its masks, 0 without.
        is_flat: whether it is (B*T, ...) and not (B, n*T, ...).
    """

    __slots__ = ('is_flat', 'name', 'steps', 'waiting')

    def __init__(self, name: str, steps: int, is_flat: bool) -> None:
        self.name, self.steps, self.is_flat = name, steps, is_flat
        self.waiting: list[_Waiting] = []


class _Waiting(NamedTuple):
    task_id: int | None
    tensor: Tensor
    mask: Tensor | None
    version: int | None

    @property
    def is_unchanged(self) -> bool:
        return self.version is None or self.tensor._version == self.version


class SmallSignals:
    """Signals on the CPU, of which the valid entries (or their norms) will be summed up.

    An output of the model waits as it is, because autograd counts its changes in place. Norms are taken at once, since
    the vectors need not live as long. Anything else is copied: whoever made it may fill it with another task's numbers.

    Example:
        >>> signals = SmallSignals()
        >>> mask = torch.tensor([[True, False]])
        >>> for task_id, value in enumerate((1.0, 4.0)):
        ...     tensor = torch.tensor([[value, 9.0]])
        ...     kind = signals.kind_of('loss', tensor, mask) or signals.admit('loss', tensor, mask)
        ...     signals.add(kind, task_id, tensor, mask)
        >>> for name, task_ids, rows in signals.take():
        ...     print(name, task_ids, rows[:, :2].tolist())
        loss (0, 1) [[1.0, 1.0], [1.0, 4.0]]
    """

    def __init__(self) -> None:
        self._admitted: dict[tuple[Any, ...], _Kind] = {}
        self._kinds: dict[tuple[Any, ...], _Kind] = {}
        self._last_mask: tuple[int | None, Tensor, int, Tensor] | None = None
        self._bytes = 0
        self.changed: set[str] = set()
        """Names of the outputs that were changed in place before they could be measured; their rows are left out."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not any(kind.waiting for kind in self._kinds.values())

    @property
    def is_full(self) -> bool:
        """Whether what waits should be measured before more is added."""
        return self._bytes >= _MOST_BYTES

    @staticmethod
    def _looks(name: str, tensor: Tensor, mask: Tensor | None) -> tuple[Any, ...]:
        masked = None if mask is None else (mask.shape, mask.device)
        return name, tensor.shape, tensor.dtype, tensor.device, tensor.layout, masked

    def kind_of(self, name: str, tensor: Tensor, mask: Tensor | None) -> _Kind | None:
        """Return the kind of a tensor if one that looks the same has been admitted."""
        return self._admitted.get(self._looks(name, tensor, mask))

    def admit(self, name: str, tensor: Tensor, mask: Tensor | None) -> _Kind:
        """Return the kind of a tensor, of which whoever calls knows that it may wait.

        Arguments:
            name: of the signal.
            tensor: strided, on the CPU, at least one dimension and one element; (B, n*T, ...) or (B*T, ...) if masked.
            mask: (B, T), on the CPU, which fits the tensor.
        """
        steps = 0 if mask is None else mask.shape[1]
        is_flat = mask is not None and (tensor.shape[0] != mask.shape[0] or (tensor.ndim == 2 and steps == 1))
        fits = (name, tensor.dtype, tensor.shape[1:], steps, is_flat)
        kind = self._kinds.setdefault(fits, _Kind(name, steps, is_flat))
        self._admitted[self._looks(name, tensor, mask)] = kind
        return kind

    def expel(self, name: str) -> None:
        """Forget that tensors of this name have been admitted."""
        self._admitted = {looks: kind for looks, kind in self._admitted.items() if looks[0] != name}

    def add(
        self,
        kind: _Kind,
        task_id: int | None,
        tensor: Tensor,
        mask: Tensor | None,
        is_output: bool = False,
        is_norm: bool = False,
    ) -> None:
        """Have a tensor wait.

        Arguments:
            kind: of the tensor.
            task_id: global task id.
            tensor: detached.
            mask: (B, T), or None.
            is_output: whether the tensor has come out of the graph that is going to be differentiated.
            is_norm: whether the L2 norms along the last dimension are what is measured.
        """
        copy = None if mask is None else self._copy(mask, task_id)
        version = None
        if is_norm:
            tensor = norms_of(tensor)
        elif is_output:
            version = tensor._version
        else:
            tensor = tensor.clone()
        kind.waiting.append(_Waiting(task_id, tensor, copy, version))
        self._bytes += tensor.nbytes

    def _copy(self, mask: Tensor, task_id: int | None) -> Tensor:
        # The signals of a task have one mask.
        last = self._last_mask
        if last is not None and last[1] is mask and last[0] == task_id and last[2] == mask._version:
            return last[3]
        copy = mask.clone() if mask.dtype == torch.bool else mask.bool()
        self._last_mask = (task_id, mask, mask._version, copy)
        return copy

    def take(self) -> Iterator[tuple[str, tuple[int | None, ...], Row]]:
        """Yield name, task ids and rows of everything that waits; nothing waits afterwards."""
        self._bytes, self._last_mask = 0, None
        masks = _Masks()
        labels: list[tuple[str, tuple[int | None, ...]]] = []
        entries: list[npt.NDArray[np.float64]] = []
        counts: list[npt.NDArray[np.intp]] = []
        size = 0
        for kind in self._kinds.values():
            signals, kind.waiting = kind.waiting, []
            unchanged = [signal for signal in signals if signal.is_unchanged]
            if len(unchanged) < len(signals):
                self.changed.add(kind.name)
            for part in _parts(unchanged):
                chosen, of_task = _valid_entries(kind, part, masks)
                if size and size + len(chosen) > MOST_ELEMENTS:
                    yield from _rows(labels, entries, counts)
                    labels, entries, counts, size = [], [], [], 0
                labels.append((kind.name, tuple([signal.task_id for signal in part])))
                entries.append(chosen)
                counts.append(of_task)
                size += len(chosen)
        if labels:
            yield from _rows(labels, entries, counts)

    def clear(self) -> None:
        """Forget what waits."""
        for kind in self._kinds.values():
            kind.waiting = []
        self._bytes, self._last_mask = 0, None


def norms_of(tensor: Tensor) -> Tensor:
    """Return the L2 norms along the last dimension."""
    # The spread of norms can be a thousandth of their size; in float32 it would lose its digits.
    return torch.linalg.vector_norm(tensor, dim=-1, dtype=torch.float64)


def _parts(signals: list[_Waiting]) -> Iterator[list[_Waiting]]:
    """Cut a list where a part would leave the caches."""
    part: list[_Waiting] = []
    elements = 0
    for signal in signals:
        elements += signal.tensor.numel()
        if part and elements > MOST_ELEMENTS:
            yield part
            part, elements = [], signal.tensor.numel()
        part.append(signal)
    if part:
        yield part


class _Masks:
    """The masks of a step, each set of which belongs to several signals."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], tuple[npt.NDArray[np.bool_], npt.NDArray[np.intp]]] = {}

    def joined(self, masks: list[Tensor]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.intp]]:
        """Return the steps of all masks, one after the other, and how many are valid in each."""
        # Whatever waits keeps its mask, so an identity names one mask as long as this lasts.
        identity = tuple(map(id, masks))
        known = self._known.get(identity)
        if known is None:
            steps = (torch.cat(masks) if len(masks) > 1 else masks[0]).numpy().reshape(-1)
            starts = np.cumsum([0] + [mask.numel() for mask in masks[:-1]])
            known = self._known[identity] = steps, np.add.reduceat(steps, starts, dtype=np.intp)
        return known


def _valid_entries(
    kind: _Kind, signals: list[_Waiting], masks: _Masks
) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    """Return the valid entries of all tasks, one task after the other, and how many each has."""
    tensors = [signal.tensor for signal in signals]
    lengths = np.array([tensor.shape[0] for tensor in tensors])
    whole = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
    if whole.dtype not in (torch.float32, torch.float64):
        whole = whole.float()
    values = whole.numpy()
    found = [signal.mask for signal in signals if signal.mask is not None]
    if not found:
        return values.reshape(-1), lengths * (values.size // len(values))
    steps, counts = masks.joined(found)  # (all tasks' B * T)
    repeats = 1 if kind.is_flat else values.shape[1] // kind.steps
    if repeats > 1:
        steps = np.repeat(steps, repeats)
    entry = values.size // steps.size
    chosen = values.reshape(steps.size, entry).compress(steps, axis=0)
    return chosen.reshape(-1), counts * (repeats * entry)


def _rows(
    labels: list[tuple[str, tuple[int | None, ...]]],
    entries: list[npt.NDArray[Any]],
    counts: list[npt.NDArray[np.intp]],
) -> Iterator[tuple[str, tuple[int | None, ...], Row]]:
    table = rows_of_segments(np.concatenate(entries, dtype=np.float64), np.concatenate(counts))
    start = 0
    for name, task_ids in labels:
        stop = start + len(task_ids)
        yield name, task_ids, table[start:stop]
        start = stop
