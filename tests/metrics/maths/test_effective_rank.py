"""Ranks against NumPy's singular value decomposition, and what a projection to fewer dimensions costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ding_normmon.metrics.maths.effective_rank import (
    effective_rank,
    feature_rank,
    packed_moment,
    projection,
    projection_error,
    singular_values,
    size_under,
    stable_rank,
)
from tests.metrics.maths.references import ranks


def spectrum_of(vectors: np.ndarray) -> np.ndarray:
    return singular_values(packed_moment(torch.from_numpy(vectors)).numpy())


@pytest.mark.parametrize('shape', [(50, 8), (5, 8), (300, 64), (1, 3)])
@pytest.mark.parametrize('offset', [0.0, 5.0])
def test_ranks_are_those_of_the_singular_value_decomposition(shape: tuple[int, int], offset: float) -> None:
    vectors = np.random.default_rng(1).normal(offset, 1.0, shape).astype(np.float32)
    sigma = spectrum_of(vectors)
    rank, stable, features = ranks(vectors)
    assert effective_rank(sigma) == pytest.approx(rank, rel=1e-6)
    assert stable_rank(sigma) == pytest.approx(stable, rel=1e-9)
    assert feature_rank(sigma) == features


def test_known_ranks() -> None:
    rng = np.random.default_rng(0)
    direction = rng.normal(size=32)
    one = np.outer(rng.normal(size=100), direction)
    assert effective_rank(spectrum_of(one)) == pytest.approx(1.0, abs=1e-12)
    assert stable_rank(spectrum_of(one)) == pytest.approx(1.0, abs=1e-12)
    assert feature_rank(spectrum_of(one)) == 1
    # In float32 the vectors themselves are off a line by rounding.
    assert effective_rank(spectrum_of(one.astype(np.float32))) == pytest.approx(1.0, abs=1e-4)
    assert effective_rank(spectrum_of(np.eye(32)[:5] * 7)) == pytest.approx(5.0)
    assert stable_rank(spectrum_of(np.eye(32)[:5] * 7)) == pytest.approx(5.0)
    nothing = spectrum_of(np.zeros((4, 3)))
    assert np.isnan(effective_rank(nothing))
    assert np.isnan(stable_rank(nothing))
    assert feature_rank(nothing) == 0


def test_second_moments_of_unequal_parts_add_up() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(index, index + 1, (7 * index + 2, 6)) for index in range(4)]
    total = sum(packed_moment(torch.from_numpy(part)).numpy() for part in parts)
    rank, stable, _ = ranks(np.concatenate(parts))
    assert effective_rank(singular_values(total)) == pytest.approx(rank, rel=1e-9)
    assert stable_rank(singular_values(total)) == pytest.approx(stable, rel=1e-9)


def test_a_vector_with_a_nonfinite_entry_adds_nothing() -> None:
    vectors = torch.tensor([[1.0, 2.0], [float('nan'), 5.0], [3.0, float('inf')], [0.0, 1.0]])
    assert packed_moment(vectors).tolist() == packed_moment(vectors[[0, 3]]).tolist()


@pytest.mark.parametrize(('features', 'dimensions'), [(768, 256), (768, 141), (512, 128)])
@pytest.mark.parametrize('rank', [1, 4, 8])
def test_a_projection_is_within_its_stated_error(features: int, dimensions: int, rank: int) -> None:
    rng = np.random.default_rng(rank)
    vectors = rng.normal(size=(400, rank)) @ rng.normal(size=(rank, features))
    exact = np.linalg.svd(vectors, compute_uv=False)[:rank]
    projected = spectrum_of(vectors @ projection(features, dimensions))
    assert np.abs(projected[:rank] / exact - 1).max() < projection_error(rank, features, dimensions)
    assert (projected[rank:] < 1e-6 * projected[0]).all()
    assert effective_rank(projected) == pytest.approx(ranks(vectors)[0], rel=0.05)


@pytest.mark.parametrize('decay', [1.0, 1.5, 2.0])
def test_the_effective_rank_of_a_decaying_spectrum_survives_a_projection(decay: float) -> None:
    rng = np.random.default_rng(3)
    sigma = np.arange(1, 769) ** -decay
    vectors = rng.normal(size=(1500, 768)) * sigma
    rank = ranks(vectors)[0]
    projected = effective_rank(spectrum_of(vectors @ projection(768, 256)))
    assert abs(projected / rank - 1) < projection_error(rank, 768, 256)


def test_a_projection_is_the_same_everywhere_and_touches_no_random_state() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    matrix = projection(40, 12)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()
    projection.cache_clear()
    assert np.array_equal(projection(40, 12), matrix)
    assert np.allclose(matrix.T @ matrix, 40 / 12 * np.eye(12))


@pytest.mark.parametrize('size', [1, 2, 3, 64, 141, 256])
def test_sizes(size: int) -> None:
    entries = size * (size + 1) // 2
    assert size_under(entries) == size
    assert size_under(entries + size) == size
    assert size == 1 or size_under(entries - 1) == size - 1
