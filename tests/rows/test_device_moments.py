"""Rows of many tensors at once: against NumPy in float64, one tensor at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ding_normmon.rows import device_moments
from ding_normmon.rows.device_moments import Steps, moment_rows, norm_steps, number_rows
from tests.accelerator import Operations

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
SPECIAL = [math.nan, math.inf, -math.inf, 0.0, 60_000.0]


def expected_row(values: np.ndarray) -> list[float]:
    """The definition of a row, spelt out."""
    values = values.astype(np.float64).reshape(-1)
    finite = values[np.isfinite(values)]
    bad = float(values.size - finite.size)
    if not finite.size:
        return [0.0, 0.0, 0.0, math.inf, -math.inf, bad]
    mean = math.fsum(finite) / finite.size
    return [finite.size, mean, math.fsum((finite - mean) ** 2), finite.min(), finite.max(), bad]


def rows_of(parts: list[Steps]) -> list[list[float]]:
    found: dict[int, list[float]] = {}
    for indices, rows in moment_rows(parts):
        assert rows.dtype == torch.float64
        found.update(zip(indices, rows.tolist(), strict=True))
    assert sorted(found) == list(range(len(parts)))
    return [found[index] for index in range(len(parts))]


def assert_rows(found: list[float], values: np.ndarray) -> None:
    """Counts, minimum and maximum to the last bit; mean and spread as closely as float64 allows."""
    expected = expected_row(values)
    for column in (0, 3, 4, 5):
        assert found[column] == expected[column], column
    scale = max((abs(value) for value in expected[3:5] if math.isfinite(value)), default=1.0)
    assert found[1] == pytest.approx(expected[1], rel=1e-12, abs=1e-13 * scale)
    assert found[2] == pytest.approx(expected[2], rel=1e-9, abs=1e-20 * expected[0] * scale**2)


def numbers(tensor: Tensor) -> np.ndarray:
    return tensor.to(torch.float64).numpy()


@st.composite
def tensors(draw: st.DrawFn) -> Steps:
    """Any dtype, any shape, with and without a mask, with entries that are not finite."""
    steps, width = draw(st.integers(1, 40)), draw(st.integers(1, 30))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    values = torch.randn(steps, width, generator=generator, dtype=torch.float64)
    values = (values * draw(st.sampled_from([1e-3, 1.0, 100.0])) + draw(st.sampled_from([0.0, 0.0, 1000.0])))
    for _ in range(draw(st.integers(0, 3))):
        values.view(-1)[draw(st.integers(0, values.numel() - 1))] = draw(st.sampled_from(SPECIAL))
    valid = None
    if draw(st.booleans()):
        valid = torch.rand(steps, generator=generator) < draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    return Steps(values.to(draw(st.sampled_from(DTYPES))), valid)


@given(
    st.lists(tensors(), min_size=1, max_size=12),
    st.sampled_from([1, 7, 64, 1 << 20]),
    st.sampled_from([0, 1 << 16]),
)
def test_any_tensors_in_any_grouping(parts: list[Steps], chunk: int, slack: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(device_moments, '_CHUNK', chunk)
        patched.setattr(device_moments, '_SLACK', slack)
        found = rows_of(parts)
    for row, part in zip(found, parts, strict=True):
        assert_rows(row, numbers(part.values if part.valid is None else part.values[part.valid]))


def test_one_tensor_is_much_larger_than_the_others() -> None:
    parts = [Steps(torch.randn(3, 2)), Steps(torch.randn(1, 300_000)), Steps(torch.randn(90_000, 3))]
    for row, part in zip(rows_of(parts), parts, strict=True):
        assert_rows(row, numbers(part.values))


def test_a_small_spread_around_a_large_mean() -> None:
    values = 1e6 + 1e-2 * torch.randn(64, 50, dtype=torch.float64)
    (row,) = rows_of([Steps(values)])
    assert math.sqrt(row[2] / (values.numel() - 1)) == pytest.approx(float(np.std(numbers(values), ddof=1)), rel=1e-8)


@given(st.integers(1, 9), st.integers(0, 2), st.sampled_from(DTYPES), st.sampled_from([3, 1 << 20]))
def test_norms_of_vectors(steps: int, extra: int, dtype: torch.dtype, chunk: int) -> None:
    # (S, n * E): every step has n vectors of E entries.
    parts = [Steps(torch.randn(steps + index, (index + 1) * 5).to(dtype)) for index in range(1 + extra)]
    parts[0].values[0, 1] = math.nan
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(device_moments, '_CHUNK', chunk)
        found = norm_steps(parts, 5)
    for norms, part in zip(found, parts, strict=True):
        expected = np.sqrt((numbers(part.values).reshape(len(part.values), -1, 5) ** 2).sum(-1))
        assert norms.values.dtype == torch.float64
        assert norms.values.numpy() == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_numbers_of_any_dtype() -> None:
    values = [torch.tensor(3.5, dtype=dtype) for dtype in DTYPES] + [torch.tensor([[7]]), torch.tensor(True)]
    values += [torch.tensor(math.nan), torch.tensor([-math.inf], dtype=torch.float64)]
    order, rows = number_rows(values)
    assert sorted(order) == list(range(len(values)))
    for index, row in zip(order, rows.tolist(), strict=True):
        assert row == expected_row(numbers(values[index])), index


def test_operations_do_not_grow_with_the_number_of_tensors() -> None:
    totals = []
    for count in (1, 30):
        parts = [Steps(torch.randn(6, 5), torch.rand(6) < 0.5) for _ in range(count)]
        with Operations() as operations:
            list(moment_rows(parts))
            number_rows([part.values[0, 0] for part in parts])
        totals.append(operations.total)
    # One tensor needs nothing laid one below the other.
    assert totals[1] <= totals[0] + 4


def test_every_tensor_of_a_width_of_its_own_costs_two_operations() -> None:
    totals = []
    for count in (10, 30):
        parts = [Steps(torch.randn(6, 3 + index), torch.rand(6) < 0.5) for index in range(count)]
        with Operations() as operations:
            found = rows_of(parts)
        totals.append(operations.total)
        for row, part in zip(found, parts, strict=True):
            assert_rows(row, numbers(part.values[part.valid]))
    assert (totals[1] - totals[0]) / 20 <= 2
