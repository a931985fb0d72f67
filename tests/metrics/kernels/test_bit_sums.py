"""Sums of bit patterns: the same in C and in torch, equal for equal bits only, and exact as a float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ding_normmon.metrics.kernels import bit_sums as module
from ding_normmon.metrics.kernels import native
from ding_normmon.metrics.kernels.bit_sums import FOLD, bit_sums, combined, folded, write_folded
from tests.accelerator import Operations

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def by_hand(tensor: Tensor, most: int | None = None) -> int:
    """Word by word in Python's integers."""
    size = tensor.element_size()
    width, kind = (32, torch.int32) if size in (4, 8) else (16, torch.int16)
    words = tensor.contiguous().view(-1).view(kind).tolist()
    if most is not None:
        words = words[:: max(1, math.ceil(len(words) / most))]
    total = 0
    for place, word in enumerate(words):
        weight = ((place % 65536) * 2654435761 % 2**32) | 1
        total += (word % 2**width) * weight * (2 * (place // 65536) + 1)
    return total % 2**64


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('shape', [(0,), (1,), (), (3, 5), (65_537,), (200, 700)])
def test_sums_are_those_of_the_definition(dtype: torch.dtype, shape: tuple[int, ...], monkeypatch: Any) -> None:
    tensor = torch.randn(shape).to(dtype)
    assert bit_sums([tensor]) == [by_hand(tensor)]
    monkeypatch.setattr(native, 'kernels', None)
    assert bit_sums([tensor]) == [by_hand(tensor)]


@pytest.mark.parametrize('dtype', DTYPES)
def test_a_sample_is_evenly_spread(dtype: torch.dtype, monkeypatch: Any) -> None:
    tensors = [torch.randn(numel).to(dtype) for numel in (0, 1, 7, 8, 9, 64, 70_001)]
    expected = [by_hand(tensor, 8) for tensor in tensors]
    cells = torch.empty(len(tensors), dtype=torch.float64)
    for kernels in (native.kernels, None):
        monkeypatch.setattr(native, 'kernels', kernels)
        assert bit_sums(tensors, 8) == expected
        write_folded([*tensors[:-1], tensors[-1].expand(2, -1)[0]], 8, cells)
        assert cells.tolist() == [total % FOLD for total in expected]


@pytest.mark.parametrize('dtype', DTYPES)
def test_one_bit_or_two_places_make_another_sum(dtype: torch.dtype) -> None:
    tensor = torch.randn(1000).to(dtype)
    bits = tensor.view(torch.int16)
    before = bit_sums([tensor])
    for place in (0, 17, len(bits) - 1):
        bits[place] ^= 1
        assert bit_sums([tensor]) != before
        bits[place] ^= 1
    assert bit_sums([tensor]) == before
    tensor[3], tensor[4] = tensor[4].clone(), tensor[3].clone()
    assert bit_sums([tensor]) != before


def test_what_c_does_not_read_is_added_up_all_the_same() -> None:
    tensor = torch.randn(6, 4)
    transposed, twice = tensor.t(), torch.stack([tensor, tensor])[0]
    first, second, third = bit_sums([tensor, transposed.contiguous(), transposed])
    assert second == third != first
    assert bit_sums([twice]) == [first]
    assert bit_sums([torch.tensor([1, -1]), torch.tensor([True, False])]) == [by_hand(torch.tensor([1, -1])), 1]


@pytest.mark.usefixtures('as_accelerator')
def test_many_tensors_together_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [torch.randn(shape).to(dtype) for dtype in DTYPES for shape in ((3,), (700, 100), (), (65_536,), (0,))]
    tensors += [torch.randn(40, 30).t(), torch.tensor([True, False]), torch.arange(9)]
    expected = [by_hand(tensor) if tensor.dtype != torch.bool else 1 for tensor in tensors]
    for chunk in (512, 2048, 1 << 21):
        monkeypatch.setattr(module, '_CHUNK', chunk)
        monkeypatch.setattr(module, '_CHUNKS', 10**9)
        module._plan.cache_clear()
        found = bit_sums(tensors)
        assert all(isinstance(total, Tensor) for total in found)
        assert [int(total) % 2**64 for total in found] == expected
        total = combined(found)
        assert int(total) % 2**64 == sum(entry * (2 * place + 1) for place, entry in enumerate(expected)) % 2**64
        assert folded(torch.stack(list(map(torch.as_tensor, found)))).tolist() == [entry % FOLD for entry in expected]


@pytest.mark.usefixtures('as_accelerator')
def test_operations_do_not_grow_with_the_number_of_tensors() -> None:
    totals = []
    for count in (2, 200):
        tensors = [torch.randn(7) for _ in range(count)]
        bit_sums(tensors)
        with Operations() as operations:
            folded(combined(bit_sums(tensors)))
        totals.append(operations.total)
    assert totals[0] == totals[1]


def test_a_sum_is_a_float64_to_the_last_bit() -> None:
    for total in (0, 1, FOLD - 1, FOLD, 2**63, 2**64 - 1):
        number = folded(total)
        assert isinstance(number, float)
        assert int(number) == total % FOLD
        signed = total - 2**64 if total >= 2**63 else total
        assert float(folded(torch.tensor(signed))) == number
    assert combined([]) == 0
    assert combined([5, 7]) == 26
