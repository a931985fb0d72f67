"""Rows: any split, order and grouping gives the float64 result of the concatenated data."""

from __future__ import annotations

import functools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ding_normmon.rows import moments
from ding_normmon.rows.moments import (
    COUNT,
    EMPTY,
    M2,
    MAXIMUM,
    MEAN,
    MINIMUM,
    NONFINITE,
    constant_row,
    device_row_of,
    merge,
    merge_rows,
    merge_sets,
    row_of,
    spread,
    square_sum_row,
)

SPECIAL = [math.nan, math.inf, -math.inf, 0.0, 1e25, -1e25, 1e-30]
FLOATS = st.floats(-(2.0**100), 2.0**100, width=32) | st.floats(-10, 10, width=32) | st.sampled_from(SPECIAL)
PARTS = st.lists(st.lists(FLOATS, max_size=8), min_size=1, max_size=6)


def assert_row(row: np.ndarray, values: Tensor) -> None:
    """The row is that of the values: counts, min and max exactly, the rest to 1e-6 relative."""
    values = values.double().reshape(-1)
    finite = values[values.isfinite()]
    assert row[COUNT] == finite.numel()
    assert row[NONFINITE] == values.numel() - finite.numel()
    if finite.numel() == 0:
        assert row[:NONFINITE].tolist() == EMPTY[:NONFINITE].tolist()
        return
    assert row[MINIMUM] == finite.min().item()
    assert row[MAXIMUM] == finite.max().item()
    size = finite.abs().max().item()
    assert row[MEAN] == pytest.approx(finite.mean().item(), rel=1e-6, abs=1e-12 * size)
    assert moments.norm(row) == pytest.approx(finite.norm().item(), rel=1e-6)
    assert moments.rms(row) == pytest.approx(finite.norm().item() / math.sqrt(finite.numel()), rel=1e-6)
    assert moments.abs_maxima(row) == size
    if finite.numel() > 1:
        assert moments.std(row) == pytest.approx(finite.std().item(), rel=1e-6, abs=1e-9 * size)


def chain(rows: list[np.ndarray]) -> np.ndarray:
    """Merge from left to right, two at a time."""
    return functools.reduce(merge, rows, EMPTY)


def tree(rows: list[np.ndarray]) -> np.ndarray:
    """Merge halves, recursively."""
    if len(rows) < 2:
        return rows[0] if rows else EMPTY
    middle = len(rows) // 2
    return merge(tree(rows[:middle]), tree(rows[middle:]))


@given(PARTS)
def test_any_grouping_gives_the_row_of_the_concatenation(parts: list[list[float]]) -> None:
    tensors = [torch.tensor(part, dtype=torch.float32) for part in parts]
    rows = [row_of(tensor) for tensor in tensors]
    for grouped in (chain(rows), tree(rows), merge_rows(rows), merge_rows(np.stack(rows))):
        assert_row(grouped, torch.cat(tensors))


@given(PARTS, st.randoms(use_true_random=False))
def test_any_order_gives_the_same_row(parts: list[list[float]], random: object) -> None:
    rows = [row_of(torch.tensor(part)) for part in parts]
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert_row(chain(shuffled), torch.cat([torch.tensor(part) for part in parts]))
    assert chain(shuffled)[[COUNT, MINIMUM, MAXIMUM, NONFINITE]].tolist() == (
        chain(rows)[[COUNT, MINIMUM, MAXIMUM, NONFINITE]].tolist()
    )


@given(st.lists(FLOATS, max_size=10))
def test_the_empty_row_is_the_identity(values: list[float]) -> None:
    row = row_of(torch.tensor(values, dtype=torch.float32))
    assert merge(row, EMPTY).tolist() == row.tolist()
    assert merge(EMPTY, row).tolist() == row.tolist()


def test_no_rows_merge_to_the_empty_row() -> None:
    assert merge_rows([]).tolist() == EMPTY.tolist()
    assert merge_sets(np.zeros((0, 6)), []).tolist() == []
    assert merge_rows(np.zeros((0, 6))).tolist() == EMPTY.tolist()


def test_the_empty_row_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match='read-only'):
        EMPTY[0] = 1
    row_of(torch.zeros(0))[0] = 1  # a row of one's own may be


@given(
    st.lists(st.integers(1, 200), min_size=1, max_size=6),
    st.floats(-1e6, 1e6),
    st.integers(0, 2**31),
)
def test_a_common_offset_of_1e6_keeps_the_digits_of_a_std_of_1e_minus_2(
    sizes: list[int], shift: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    parts = [
        torch.randn(size, generator=generator, dtype=torch.float64) * 1e-2 + 1e6 + shift + 1e-3 * index
        for index, size in enumerate(sizes)
    ]
    everything = torch.cat(parts)
    row = chain([row_of(part) for part in parts])
    # The offset is taken off in float64 exactly, so that the reference itself has its digits.
    centred = everything - everything[0]
    if len(everything) > 1:
        assert moments.std(row) == pytest.approx(centred.std().item(), rel=1e-6)
    assert row[MEAN] == pytest.approx(everything.mean().item(), rel=1e-12)


def test_unequal_counts_and_means_are_not_averaged() -> None:
    row = merge(row_of(torch.tensor([1.0, 2.0, 3.0])), row_of(torch.tensor([10.0])))
    assert row.tolist() == [4, 4, 50, 1, 10, 0]
    assert moments.std(row) == pytest.approx(math.sqrt(50 / 3))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize('function', [row_of, device_row_of])
def test_every_floating_dtype(dtype: torch.dtype, function: object) -> None:
    values = (torch.randn(1000, dtype=torch.float64) * 3 + 100).to(dtype)
    assert_row(np.asarray(function(values)), values)  # type: ignore[operator]


@pytest.mark.parametrize('numel', [0, 1, 2, 4096, (1 << 16) - 1, 1 << 16, (1 << 16) + 1, 200_001])
def test_blocks_meet_without_seams(numel: int) -> None:
    values = torch.randn(numel) + torch.linspace(-100, 100, numel)
    if numel > 3:
        values[[0, numel // 2, numel - 1]] = torch.tensor([math.nan, math.inf, -math.inf])
    assert_row(row_of(values), values)


@given(st.lists(st.integers(0, 4), min_size=0, max_size=4))
def test_any_shape(shape: list[int]) -> None:
    values = torch.randn(shape)
    assert_row(row_of(values), values)
    assert_row(device_row_of(values).numpy(), values)


def test_views_that_are_not_contiguous() -> None:
    base = torch.randn(6, 8, 5)
    for view in (base[::2], base.transpose(0, 2), base[:, 1:7:3], base[0, :, 0], torch.randn(3, 1).expand(3, 4)):
        assert_row(row_of(view), view.clone())
        assert_row(device_row_of(view).numpy(), view.clone())


@pytest.mark.parametrize('value', [2.5, -0.0, 1e300, 5e-324, math.nan, math.inf, -math.inf])
def test_one_number_has_the_row_that_it_has_on_the_host(value: float) -> None:
    values = torch.tensor([[value]], dtype=torch.float64)
    assert device_row_of(values).tolist() == row_of(values).tolist()


def test_values_are_not_changed() -> None:
    for dtype in (torch.float64, torch.float32):
        values = torch.tensor([1.0, math.nan, 3.0], dtype=dtype)
        row_of(values)
        device_row_of(values)
        assert values[0] == 1
        assert values[2] == 3
        assert values[1].isnan()


@pytest.mark.parametrize(
    'values', [[math.inf, -math.inf, 2.0], [math.nan], [math.inf, math.inf], [1e38] * 5, [1e300] * 3, [1e308] * 4]
)
def test_non_finite_and_huge_entries_cause_no_warning_and_no_nan(values: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        row = merge_rows([row_of(torch.tensor(values, dtype=torch.float64)), EMPTY])
        moments.norm(row)
    assert not np.isnan(row).any()
    finite = [value for value in values if math.isfinite(value)]
    assert row[COUNT] == len(finite)
    assert row[NONFINITE] == len(values) - len(finite)
    if finite:
        assert row[MEAN] == pytest.approx(finite[0], rel=1e-12)
        assert row[MAXIMUM] == row[MINIMUM] == finite[0]
        assert row[M2] == 0


@pytest.mark.parametrize('size', [1e25, 3e38, 1e-25, 1e-44])
def test_huge_and_tiny_float32(size: float) -> None:
    values = torch.tensor([1.0, -2.0, 3.0, 0.5]) * size
    assert_row(row_of(values), values)
    assert_row(device_row_of(values).numpy(), values)


def test_huge_float64_has_a_finite_norm() -> None:
    row = row_of(torch.full((4,), 1e300, dtype=torch.float64))
    assert moments.norm(row) == pytest.approx(2e300)
    assert moments.rms(row) == pytest.approx(1e300)


@given(st.lists(FLOATS, min_size=0, max_size=20))
def test_the_row_of_a_device_is_the_row_of_the_host(values: list[float]) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    host, device = row_of(tensor), device_row_of(tensor).numpy()
    exact = [COUNT, MINIMUM, MAXIMUM, NONFINITE]
    assert host[exact].tolist() == device[exact].tolist()
    size = moments.abs_maxima(host) if host[COUNT] else 0.0
    assert device[MEAN] == pytest.approx(host[MEAN], rel=1e-9, abs=1e-12 * size)
    assert device[M2] == pytest.approx(host[M2], rel=1e-9, abs=1e-12 * size * size)


def test_the_std_is_unbiased_and_absent_for_one_number() -> None:
    assert moments.std(row_of(torch.tensor([1.0, 3.0]))) == pytest.approx(math.sqrt(2))
    assert math.isnan(moments.std(constant_row(3.0)))
    assert math.isnan(moments.std(EMPTY))


def test_nothing_is_derived_from_an_empty_row() -> None:
    assert dict(moments.statistics(EMPTY)) == {}
    assert math.isnan(moments.rms(EMPTY))
    assert math.isnan(moments.abs_maxima(EMPTY))
    assert moments.norm(EMPTY) == 0


def test_abs_max_is_the_largest_of_both_ends() -> None:
    assert moments.abs_maxima(row_of(torch.tensor([-7.0, 2.0]))) == 7
    assert moments.abs_maxima(row_of(torch.tensor([-1.0, 2.0]))) == 2


def test_many_rows_at_once_are_as_one_by_one() -> None:
    values = [torch.randn(size) * 10.0**power for size, power in ((1, 0), (2, 3), (50, -3), (7, 30))]
    rows = [EMPTY, *(row_of(value) for value in values), row_of(torch.tensor([math.nan, -3.0]))]
    table = np.stack(rows)
    pairs = ((moments.norms, moments.norm), (moments.stds, moments.std),)
    for many, one in pairs:
        assert many(table).tolist() == pytest.approx([one(row) for row in rows], nan_ok=True, rel=0, abs=0)
        assert many(table[:0]).shape == (0,)
    for row, value in zip(rows[1:], values, strict=False):
        assert moments.norms(row[None])[0] == pytest.approx(value.double().norm().item(), rel=1e-12)
        assert moments.abs_maxima(row[None])[0] == value.abs().max().item()


def test_rows_of_one_number() -> None:
    assert constant_row(-2.5).tolist() == row_of(torch.tensor([-2.5])).tolist()
    assert constant_row(math.nan).tolist() == row_of(torch.tensor([math.nan])).tolist()
    assert constant_row(math.inf)[NONFINITE] == 1


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1e40)), max_size=8))
def test_sums_of_squares_add_up(parts: list[tuple[int, float]]) -> None:
    parts = [(count, total if count else 0.0) for count, total in parts]
    row = merge_rows([square_sum_row(count, total) for count, total in parts])
    assert moments.norm(row) == pytest.approx(math.sqrt(sum(total for _, total in parts)), rel=1e-9)
    assert row[COUNT] == sum(count for count, _ in parts)


def test_numpy_arrays_are_read_too() -> None:
    assert row_of(np.array([[1.0, 2.0], [3.0, 10.0]])).tolist() == [4, 4, 50, 1, 10, 0]


@given(st.lists(st.lists(st.lists(st.floats(-1e6, 1e6), max_size=4), max_size=4), max_size=5))
def test_many_sets_at_once_are_as_one_by_one(sets: list[list[list[float]]]) -> None:
    rows = [[row_of(torch.tensor(part, dtype=torch.float64)) for part in parts] for parts in sets]
    table = np.array([row for parts in rows for row in parts]).reshape(-1, 6)
    merged = merge_sets(table, [len(parts) for parts in rows])
    for parts, row in zip(sets, merged, strict=True):
        numbers = torch.tensor([number for part in parts for number in part], dtype=torch.float64)
        assert_row(row, numbers)


def test_the_spread_of_a_few_numbers() -> None:
    values = [1e6 + offset for offset in (0.25, -0.5, 3.0, 0.0)]
    mean, deviation = spread(values)
    exact = torch.tensor(values, dtype=torch.float64)
    assert (mean, deviation) == (pytest.approx(float(exact.mean())), pytest.approx(float(exact.std()), rel=1e-12))
    assert spread([3.0]) == (3.0, None)
