"""Keeps tensors that are published on an accelerator until the first hook point, and reduces them together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ding_normmon.core.step import SignalError
from ding_normmon.metrics.kernels import native
from ding_normmon.rows import RowBuffer, RowKey
from ding_normmon.rows.device_moments import Steps, moment_rows, norm_steps, number_rows
from ding_normmon.rows.moments import EMPTY, constant_numbers

__all__ = ['DeviceSignals', 'Published', 'masks_of', 'write_number', 'write_numbers', 'write_signals']


@dataclass(frozen=True)
class Published:
    """One published tensor, without its graph.

    Arguments:
        key: of its row.
        tensor: shape (B, n*T, ...) or (B*T, ...), or anything without a mask.
        mask: (B, T), true or not zero where a step is data; None means that all of it is.
        norms: whether the L2 norms of its vectors are measured in the place of its entries.
    """

    key: RowKey
    tensor: Tensor
    mask: Tensor | None = None
    norms: bool = False

    def versions(self) -> tuple[int, ...] | None:
        """Return how often tensor and mask have been changed in place; None if torch does not count that."""
        tensors = [self.tensor] if self.mask is None else [self.tensor, self.mask]
        if any(tensor.is_inference() for tensor in tensors):
            return None
        return tuple(tensor._version for tensor in tensors)


class DeviceSignals:
    """The tensors published before the first hook point of a step; nothing is kept beyond it.

    Until then the graph of the forward pass holds these tensors anyway. Later ones are written at once, and so are
    signals that were changed in place in between, from the next record on.

    Arguments:
        write: writes the rows of any number of tensors.
    """

    def __init__(self, write: Callable[[Sequence[Published], RowBuffer], None]) -> None:
        self._write = write
        self._kept: list[tuple[Published, tuple[int, ...], torch.cuda.Stream | None]] = []
        self._keeps = False
        self._changing: set[RowKey] = set()

    def begin(self) -> None:
        """Keep what is published from now on."""
        self._keeps = True

    @torch.no_grad()
    def add(self, published: Published, rows: RowBuffer) -> None:
        """Keep a tensor, or write its row."""
        versions = published.versions()
        if not self._keeps or versions is None or published.key in self._changing:
            self._write([published], rows)
            return
        tensor = published.tensor
        self._kept.append((published, versions, torch.cuda.current_stream(tensor.device) if tensor.is_cuda else None))

    @torch.no_grad()
    def write(self, hook_point: str, rows: RowBuffer) -> None:
        """Write the rows of all kept tensors.

        Raises:
            SignalError: something was changed in place since it was published.
        """
        kept, self._kept, self._keeps = self._kept, [], False
        whole = []
        changed: set[RowKey] = set()
        for published, versions, stream in kept:
            if published.versions() != versions:
                changed.add(published.key)
                continue
            whole.append(published)
            if stream is not None:
                _wait_for(stream, published)
        if whole:
            self._write(whole, rows)
        if changed:
            self._changing |= changed
            names = ', '.join(sorted({key.name for key in changed}))
            raise SignalError(
                f'{names}: changed in place after it was published and before {hook_point}, so it is not in this '
                f'record; it is measured at once from the next one on'
            )

    def release(self) -> None:
        """Drop what was kept of a step that ended before its first hook point."""
        self._kept = []
        self._keeps = False


def _wait_for(stream: torch.cuda.Stream, published: Published) -> None:
    """Have the current stream wait for the one on which a tensor was made; the host does not wait."""
    current = torch.cuda.current_stream(published.tensor.device)
    if stream != current:
        current.wait_stream(stream)
        for tensor in (published.tensor, published.mask):
            if tensor is not None and tensor.is_cuda:
                tensor.record_stream(current)


def write_number(key: RowKey, value: Tensor | float, rows: RowBuffer) -> None:
    """Write the row of one number; an accelerator is not waited for."""
    if isinstance(value, Tensor) and not rows.on_host:
        rows.write_rows([key], number_rows([value.to(rows.device, non_blocking=True)])[1])
    else:
        rows.write_numbers(key, constant_numbers(native.number_of(value)))


def write_numbers(numbers: Sequence[Published], rows: RowBuffer) -> None:
    """Write the rows of tensors of one element: about ten operations, however many there are."""
    order, table = number_rows([number.tensor for number in numbers])
    rows.write_rows([numbers[index].key for index in order], table)


def write_signals(signals: Sequence[Published], rows: RowBuffer) -> None:
    """Write the row of each tensor: a few dozen operations, however many there are."""
    full = [signal for signal in signals if signal.tensor.numel()]
    for signal in signals:
        if not signal.tensor.numel():
            rows.write(signal.key, EMPTY)
    masks = masks_of(full)
    steps: list[Steps | None] = [None] * len(full)
    vectors: dict[tuple[torch.dtype, int], list[int]] = {}
    for index, signal in enumerate(full):
        # float8 supports nothing but conversion.
        tensor = signal.tensor.float() if signal.tensor.element_size() == 1 else signal.tensor
        size = tensor.shape[-1] if tensor.ndim else 1
        valid = None if signal.mask is None else masks[id(signal.mask)]
        # In memory order each step of the mask is one run of entries: all tokens of the step.
        of_step = size if valid is None else tensor.numel() // len(valid)
        steps[index] = Steps(tensor.reshape(-1, of_step), valid)
        if signal.norms:
            vectors.setdefault((tensor.dtype, size), []).append(index)
    for (_, size), indices in vectors.items():
        chosen = [found for index in indices if (found := steps[index]) is not None]
        for index, norms in zip(indices, norm_steps(chosen, size), strict=True):
            steps[index] = norms
    for indices, table in moment_rows([found for found in steps if found is not None]):
        rows.write_rows([full[index].key for index in indices], table)


def masks_of(signals: Sequence[Published]) -> dict[int, Tensor]:
    """Return each mask once, by its ``id``: boolean, one entry per step, where the tensor is."""
    found: dict[int, Tensor] = {}
    for signal in signals:
        if signal.mask is not None and id(signal.mask) not in found:
            found[id(signal.mask)] = signal.mask.detach().to(signal.tensor.device, non_blocking=True).bool().reshape(-1)
    return found
