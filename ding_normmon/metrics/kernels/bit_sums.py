"""Sums of bit patterns: equal tensors have equal sums, to the last bit and in whatever order they are added.

A word of memory (32 bits, 16 of half precision) counts with an odd weight of its place, so that entries that have
changed places are seen too; all of it is modulo 2**64. What differs has the same sum with a probability of about
2**-53.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ding_normmon.metrics.kernels import native

__all__ = ['FOLD', 'bit_sums', 'combined', 'folded']

FOLD = 2**53 - 111
"""A prime: what is left of a sum modulo it is a float64 to the last bit."""

_WEIGHTS = 1 << 16
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int32}
_MASKS = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFFFFFF, 8: 0xFFFFFFFF}
_tables: dict[torch.device, Tensor] = {}


def bit_sums(tensors: Sequence[Tensor]) -> list[int | Tensor]:
    """Return the sum of the bit patterns of each tensor.

    Arguments:
        tensors: of any dtype, on any device; they are not changed.

    Returns:
        For a tensor on the CPU an integer from 0 to 2**64 - 1; for another one an int64 tensor without dimensions on
        its device, which is the same number modulo 2**64 and is not waited for.

    Example:
        >>> first, second, third = bit_sums([torch.tensor([1., 2.]), torch.tensor([1., 2.]), torch.tensor([2., 1.])])
        >>> first == second, first == third
        (True, False)
    """
    tensors = [tensor.detach() for tensor in tensors]
    found: list[int | None] = [None] * len(tensors)
    if native.kernels is not None:
        found = native.kernels.bit_sums(tensors)
    return [_bit_sum(tensor) if known is None else known for tensor, known in zip(tensors, found, strict=True)]


@torch.no_grad()
def _bit_sum(tensor: Tensor) -> int | Tensor:
    # What a view of a conjugate or of zeros stands for is written out first.
    tensor = tensor.resolve_conj().resolve_neg().clone() if tensor._is_zerotensor() else tensor.resolve_conj()
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    flat = tensor.to_dense().reshape(-1) if tensor.layout != torch.strided else tensor.reshape(-1)
    if flat.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    size = flat.element_size()
    words = (flat.view(torch.uint8) if flat.dtype == torch.bool else flat).contiguous().view(_WORDS[size])
    weights = _weights(flat.device)
    total = torch.zeros((), dtype=torch.int64, device=flat.device)
    for place, piece in enumerate(words.split(_WEIGHTS)):
        numbers = piece.to(torch.int64) & _MASKS[size]
        total += (numbers * weights[: len(numbers)]).sum() * (2 * place + 1)
    return int(total) % 2**64 if flat.device.type == 'cpu' else total


def _weights(device: torch.device) -> Tensor:
    if device not in _tables:
        places = torch.arange(_WEIGHTS, dtype=torch.int64)
        _tables[device] = ((places * 2654435761) & 0xFFFFFFFF | 1).to(device)
    return _tables[device]


def combined(sums: Iterable[int | Tensor]) -> int | Tensor:
    """Return one sum for several tensors in their order; those of tensors that have changed places differ.

    >>> combined([1, 2]) == combined([2, 1])
    False
    """
    total: int | Tensor = 0
    for place, entry in enumerate(sums):
        total = total + entry * (2 * place + 1)
    return total if isinstance(total, Tensor) else total % 2**64


def folded(total: int | Tensor) -> float | Tensor:
    """Return a sum as a float64 that holds it exactly, modulo :data:`FOLD`.

    >>> folded(FOLD + 5), folded(2**64 - 1) == folded(torch.tensor(-1))
    (5.0, tensor(True))
    """
    if not isinstance(total, Tensor):
        return float(total % FOLD)
    # An int64 that is negative stands for a number from 2**63 on.
    wrapped = torch.where(total < 0, 2**64 % FOLD, 0)
    return ((total % FOLD + wrapped) % FOLD).to(torch.float64)
