"""Sums of bit patterns: equal tensors have equal sums, to the last bit and in whatever order they are added.

A word of memory (32 bits; 16 bits in half precision) is multiplied by an odd weight that depends on its position, so
swapped entries are detected too; all sums are modulo 2**64. Different tensors have the same sum with a probability of
about 2**-53.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ding_normmon.metrics.kernels import native
from ding_normmon.rows.chunks import Piece, cut

__all__ = ['FOLD', 'bit_sums', 'combined', 'folded', 'write_folded']

FOLD = 2**53 - 111
"""A prime; the remainder of a sum modulo it fits into a float64 exactly."""

_WEIGHTS = 1 << 16
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int32}
_MASKS = {torch.uint8: 0xFF, torch.int16: 0xFFFF, torch.int32: 0xFFFFFFFF}

_ROW = 512
"""Words of a row; each row belongs to one tensor."""

_CHUNKS, _CHUNK = 16, 1 << 21
"""Approximate number of chunks of a list, and the smallest number of words of a chunk."""

_tables: dict[torch.device, Tensor] = {}


def bit_sums(tensors: Sequence[Tensor], most: int | None = None) -> list[int | Tensor]:
    """Return the sum of the bit patterns of each tensor.

    Arguments:
        tensors: of any dtype, on any device; they are not changed.
        most: words to read of each tensor, evenly spread over it; None for all.

    Returns:
        For a tensor on the CPU an integer from 0 to 2**64 - 1; for another one an int64 tensor without dimensions on
        its device, which is the same number modulo 2**64 and is not waited for.

    Example:
        >>> first, second, third = bit_sums([torch.tensor([1., 2.]), torch.tensor([1., 2.]), torch.tensor([2., 1.])])
        >>> first == second, first == third
        (True, False)
    """
    tensors = list(tensors)
    known: list[int | None] = [None] * len(tensors)
    if native.kernels is not None and tensors and _is_on_host(tensors[0]):
        known = native.kernels.bit_sums(tensors, most or 0, None)
    left = [tensor.detach() for tensor, total in zip(tensors, known, strict=True) if total is None]
    others = iter(_sums_in_torch(left, most) if left else ())
    return [_number(next(others)) if total is None else total for total in known]


def write_folded(tensors: Sequence[Tensor], most: int | None, cells: Tensor) -> None:
    """Write the folded sum of each tensor (:func:`folded`).

    Arguments:
        tensors: as for :func:`bit_sums`, all on one device.
        most: as for :func:`bit_sums`.
        cells: float64, shape (number of tensors,), on that device; overwritten.

    Example:
        >>> cells = torch.zeros(1, dtype=torch.float64)
        >>> write_folded([torch.ones(3)], None, cells)
        >>> cells.item() == folded(bit_sums([torch.ones(3)])[0])
        True
    """
    left: list[int | None] = [*range(len(tensors))]
    if native.kernels is not None and tensors and _is_on_host(tensors[0]):
        left = native.kernels.bit_sums(list(tensors), most or 0, cells)
    if not left:
        return
    totals = torch.stack(_sums_in_torch([tensors[index].detach() for index in left if index is not None], most))
    cells[left] = torch.as_tensor(folded(totals))


def _number(total: Tensor) -> int | Tensor:
    return int(total) % 2**64 if _is_on_host(total) else total


def _is_on_host(tensor: Tensor) -> bool:
    return tensor.device.type == 'cpu'


@torch.no_grad()
def _sums_in_torch(tensors: Sequence[Tensor], most: int | None) -> list[Tensor]:
    """Return the sums as int64 tensors: about ten operations for all tensors of one device and width of word."""
    words = [_words(tensor) for tensor in tensors]
    if most is not None:
        words = [entry[:: -(-len(entry) // most) or 1] for entry in words]
    sums: list[Tensor] = [torch.zeros(0)] * len(words)
    alike: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for index, entry in enumerate(words):
        alike.setdefault((entry.device, entry.dtype), []).append(index)
    for (device, dtype), indices in alike.items():
        totals = torch.zeros(len(indices), dtype=torch.int64, device=device)
        zero = torch.zeros(1, dtype=dtype, device=device)
        plan = _plan(tuple(len(words[index]) for index in indices), device)
        for pieces, owners, lines, factors in plan:
            parts: list[Tensor] = []
            for position, first, last in pieces:
                parts.append(words[indices[position]][first:last])
                if (last - first) % _ROW:
                    parts.append(zero.expand(-(last - first) % _ROW))
            numbers = torch.cat(parts).to(torch.int64).bitwise_and_(_MASKS[dtype]).view(-1, _ROW)
            weighted = numbers.mul_(_weights(device).view(-1, _ROW).index_select(0, lines))
            totals.index_add_(0, owners, weighted.sum(dim=1).mul_(factors))
        for index, total in zip(indices, totals.unbind(), strict=True):
            sums[index] = total
    return sums


def _words(tensor: Tensor) -> Tensor:
    """Return the memory of a tensor, in the order of its entries, as a one-dimensional integer tensor."""
    # Lazy conjugates and lazy zeros are written out first.
    tensor = tensor.resolve_conj().resolve_neg().clone() if tensor._is_zerotensor() else tensor.resolve_conj()
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    flat = tensor.to_dense().reshape(-1) if tensor.layout != torch.strided else tensor.reshape(-1)
    if flat.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    size = flat.element_size()
    return (flat.view(torch.uint8) if flat.dtype == torch.bool else flat).contiguous().view(_WORDS[size])


_Chunk = tuple[list[Piece], Tensor, Tensor, Tensor]
"""Pieces, and of each of their rows the tensor, the line of weights and the factor."""


@functools.lru_cache(maxsize=8)
def _plan(lengths: tuple[int, ...], device: torch.device) -> list[_Chunk]:
    """Cut tensors of so many words into rows of one width, a chunk of them at a time; the same step after step."""
    chunks: list[_Chunk] = []
    per_round = _WEIGHTS // _ROW
    with torch.inference_mode(False):
        for pieces in cut(lengths, max(sum(lengths) // _CHUNKS, _CHUNK) // _ROW, _ROW):
            rows = [
                (index, place % per_round, 2 * (place // per_round) + 1)
                for index, first, last in pieces
                for place in range(first // _ROW, -(-last // _ROW))
            ]
            owners, lines, factors = torch.tensor(rows, dtype=torch.int64).t().contiguous().to(device).unbind()
            chunks.append((pieces, owners, lines, factors))
    return chunks


def _weights(device: torch.device) -> Tensor:
    if device not in _tables:
        places = torch.arange(_WEIGHTS, dtype=torch.int64)
        with torch.inference_mode(False):
            _tables[device] = ((places * 2654435761) & 0xFFFFFFFF | 1).to(device)
    return _tables[device]


def combined(sums: Iterable[int | Tensor]) -> int | Tensor:
    """Return one sum for several tensors; it depends on their order.

    >>> combined([1, 2]) == combined([2, 1])
    False
    """
    entries = list(sums)
    tensors = [entry for entry in entries if isinstance(entry, Tensor)]
    if tensors and len(tensors) == len(entries):
        weights = torch.arange(1, 2 * len(tensors), 2, device=tensors[0].device)
        return (torch.stack(tensors) * weights).sum()
    total: int | Tensor = 0
    for place, entry in enumerate(entries):
        total = total + entry * (2 * place + 1)
    return total if isinstance(total, Tensor) else total % 2**64


def folded(total: int | Tensor) -> float | Tensor:
    """Return a sum as a float64 that holds it exactly, modulo :data:`FOLD`.

    >>> folded(FOLD + 5), folded(2**64 - 1) == folded(torch.tensor(-1))
    (5.0, tensor(True))
    """
    if not isinstance(total, Tensor):
        return float(total % FOLD)
    # A negative int64 stands for a number of at least 2**63.
    wrapped = torch.where(total < 0, 2**64 % FOLD, 0)
    return ((total % FOLD + wrapped) % FOLD).to(torch.float64)
