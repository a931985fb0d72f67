"""Sketches keep inner products within the error that is stated for them, whatever the vectors look like."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ding_normmon.metrics.maths import sketch as module
from ding_normmon.metrics.maths.conflict_geometry import cosine_of, cosines, geometry_of, standard_error
from ding_normmon.metrics.maths.sketch import ROW, Sketch
from tests.sampling import sampled

CPU = torch.device('cpu')
ELEMENTS, SIZE, TRIALS = 20_000, 256, 60


def vectors(kind: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    if kind == 'constant':
        first, second = torch.ones(ELEMENTS), torch.ones(ELEMENTS)
        second[::2] = -1
    elif kind == 'rank 1':
        first, second = (torch.outer(normal(100), normal(200)).reshape(-1) for _ in range(2))
    elif kind == 'one column':
        first, second = torch.zeros(100, 200), torch.zeros(100, 200)
        first[:, 7], second[:, 7] = normal(100), normal(100)
        first, second = first.reshape(-1), second.reshape(-1)
    elif kind == 'heavy tails':
        first, second = normal(ELEMENTS) ** 5, normal(ELEMENTS) ** 5
    else:
        first, second = normal(ELEMENTS), normal(ELEMENTS)
    first = first / first.norm()
    second = second - first * (first @ second)
    return first, second / second.norm()


@pytest.mark.parametrize('target', sampled([0.3, 0.0, -0.9, 0.999]))
@pytest.mark.parametrize('kind', ['normal', 'constant', 'rank 1', 'one column', 'heavy tails'])
def test_errors_are_as_large_as_stated(kind: str, target: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, 'CHUNK', 1 << 12)  # several chunks
    first, other = vectors(kind)
    second = target * first + math.sqrt(1 - target**2) * other
    exact = float(first.double() @ second.double() / first.double().norm() / second.double().norm())
    norms = np.array([float(first.double().norm()), float(second.double().norm())])
    errors, stated = [], []
    for seed in range(TRIALS):
        monkeypatch.setattr(module, '_SEED', seed)
        sketch = Sketch([ELEMENTS], SIZE, CPU)
        both = [sketch([tensor], torch.zeros(SIZE, dtype=torch.float64)).numpy() for tensor in (first, second)]
        cosine, error = cosines(np.stack(both), norms, sketch.collision)
        errors.append(cosine[0, 1] - exact)
        stated.append(error[0, 1])
    rms = math.sqrt(np.mean(np.square(errors)))
    # Of 60 trials the root mean square has a standard error of 9%.
    assert 0.7 < rms / np.mean(stated) < 1.3
    assert abs(np.mean(errors)) < 4 * rms / math.sqrt(TRIALS) + 2 * (1 - target**2) / SIZE
    assert np.mean(np.abs(errors) > 2 * np.array(stated)) < 0.18


def test_pieces_of_any_size_are_one_vector() -> None:
    whole = torch.randn(3 * module.CHUNK + 777)
    numels = [1, 5, module.CHUNK, 3, 2 * module.CHUNK]
    numels.append(len(whole) - sum(numels))
    square = torch.zeros((), dtype=torch.float64)
    one = Sketch([len(whole)], 512, CPU)([whole], torch.zeros(512), square)
    several = Sketch(numels, 512, CPU)(list(whole.split(numels)), torch.zeros(512))
    assert torch.equal(one, several)
    assert float(square) == pytest.approx(float((whole.double() ** 2).sum()), rel=1e-12)


def test_it_is_linear_so_the_sketch_of_a_difference_is_the_difference() -> None:
    first = torch.randn(100_000)
    second = first + 1e-4 * torch.randn(100_000)
    sketch = Sketch([100_000], 512, CPU)
    out = [sketch([tensor], torch.zeros(512, dtype=torch.float64)) for tensor in (first, second, second - first)]
    assert torch.allclose(out[1] - out[0], out[2], rtol=1e-6, atol=1e-9)


def test_none_is_zero_and_other_layouts_are_read_as_they_are() -> None:
    sketch = Sketch([50 * 60, 4000], 128, CPU)
    matrix = torch.randn(60, 50).t()
    plain = sketch([matrix.contiguous(), torch.zeros(4000)], torch.zeros(128))
    assert torch.equal(sketch([matrix, None], torch.zeros(128)), plain)
    half = matrix.to(torch.bfloat16)
    expected = sketch([half.float(), None], torch.zeros(128))
    assert torch.equal(sketch([half, None], torch.zeros(128)), expected)


def test_the_global_random_state_and_the_tensors_are_not_touched() -> None:
    tensor = torch.randn(10_000)
    copy, state = tensor.clone(), torch.get_rng_state()
    Sketch([10_000], 128, CPU)([tensor], torch.zeros(128))
    assert torch.equal(tensor, copy)
    assert torch.equal(state, torch.get_rng_state())


def test_two_sketches_of_one_seed_are_the_same_and_so_is_the_next_run() -> None:
    tensor = torch.arange(10_000.0)
    first, second = (Sketch([10_000], 128, CPU)([tensor], torch.zeros(128)) for _ in range(2))
    assert torch.equal(first, second)
    # Ranks of different machines meet on rank 0: a change of the drawing is a change of the format.
    assert float(first.double() @ torch.arange(128.0, dtype=torch.float64)) == -44836220.0


def test_a_short_vector_is_kept_as_it_is() -> None:
    sketch = Sketch([3, 4], 128, CPU)
    assert sketch.collision == 0
    assert sketch.size == 7


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=f'multiple of {ROW}'):
        Sketch([5], 100, CPU)
    with pytest.raises(ValueError, match='expected a tensor of 5 elements, got 6'):
        Sketch([5], 128, CPU)([torch.zeros(6)], torch.zeros(5))


# -- cosines ---------------------------------------------------------------------------------------------------------


def test_the_maximum_likelihood_cosine_solves_its_cubic() -> None:
    rng = np.random.default_rng(0)
    true = rng.uniform(-0.99, 0.99, 200)
    pairs = rng.normal(size=(200, 2, 500)) / math.sqrt(500)
    first = pairs[:, 0]
    second = true[:, None] * first + np.sqrt(1 - true[:, None] ** 2) * pairs[:, 1]
    a, b, p = (first**2).sum(1), (second**2).sum(1), (first * second).sum(1)
    c = cosine_of(p, a, b)
    assert np.abs(c**3 - c**2 * p + c * (a + b - 1) - p).max() < 1e-12
    error = (c - true) / standard_error(true, 1 / 500)
    assert 0.85 < error.std() < 1.15


@pytest.mark.parametrize('scale', [0.8, 1.0, 1.3])
def test_equal_and_opposite_vectors_are_exact_whatever_the_sketch_lost(scale: float) -> None:
    square = np.array([scale])
    assert cosine_of(square, square, square)[0] == pytest.approx(1, abs=1e-9)
    assert cosine_of(-square, square, square)[0] == pytest.approx(-1, abs=1e-9)


def test_the_gram_matrix_has_exact_squared_norms_on_its_diagonal() -> None:
    rng = np.random.default_rng(0)
    sketches = {task: rng.normal(size=64) for task in (4, 1, 7)}
    squares = {1: 4.0, 4: 9.0, 7: 0.25}
    geometry = geometry_of(sketches, squares, collision=1 / 64)
    assert geometry.tasks == (1, 4, 7)
    assert np.diag(geometry.gram).tolist() == [4.0, 9.0, 0.25]


def test_only_what_is_below_two_standard_errors_is_a_conflict() -> None:
    def rate(cosine: float) -> float:
        first, second = np.array([1.0, 0.0]), np.array([cosine, math.sqrt(1 - cosine**2)])
        return geometry_of({0: first, 1: second}, {0: 1.0, 1: 1.0}, collision=0.01).figures()['rate']

    assert rate(-0.15) == 0
    assert rate(-0.25) == 1
    assert rate(0.25) == 0


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize('numel', [50, 500], ids=['exact', 'sketched'])
def test_the_tensors_are_only_read(dtype: torch.dtype, numel: int) -> None:
    tensors = [torch.randn(numel, generator=torch.Generator().manual_seed(0)).to(dtype), torch.ones(3, dtype=dtype)]
    before = [tensor.clone() for tensor in tensors]
    sketch = Sketch([numel, 3], 64, torch.device('cpu'))
    square = torch.zeros((), dtype=torch.float64)
    sketch(tensors, torch.zeros(sketch.size, dtype=torch.float64), square)
    assert all(torch.equal(*pair) for pair in zip(tensors, before, strict=True))
    assert float(square) == pytest.approx(sum(float((tensor.double() ** 2).sum()) for tensor in before), rel=1e-6)
