"""Sums of squares against float64 on the same tensors: values, layouts, extremes, and what must not change."""

from __future__ import annotations

import contextlib
import gc
import math
import warnings
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ding_normmon.metrics.kernels import native
from ding_normmon.metrics.kernels.squares import (
    SquareSums,
    careful,
    careful_sum_of_squares,
    device,
    host,
    sum_of_squares,
)
from ding_normmon.metrics.kernels.squares import sums as squares_of
from tests.sampling import sampled

LONG_SIZES = (63, 64, 65, 513, 1025, 4097, 8192, 3 * 3001, 70_001, 768 * 101)

WAYS = (*(() if native.kernels is None else ('compiled',)), 'not compiled', 'accelerator')


@contextlib.contextmanager
def way(name: str) -> Iterator[None]:
    """Take one of the ways to measure."""
    with pytest.MonkeyPatch.context() as patched:
        if name == 'not compiled':
            patched.setattr(native, 'kernels', None)
        if name == 'accelerator':
            patched.setattr(squares_of, 'HostSums', lambda found: device.DeviceSums(found, torch.device('cpu')))
        yield


def reference(tensor: Tensor | None) -> tuple[float, int]:
    if tensor is None:
        return 0.0, 0
    wide = tensor.detach().to_dense().to(torch.float64)
    finite = torch.isfinite(wide)
    return float(wide[finite].square().sum()), int((~finite).sum())


def measure(
    tensors: list[Tensor | None], templates: list[Tensor] | None = None, name: str = WAYS[0]
) -> tuple[Tensor, Tensor]:
    if templates is None:
        templates = [tensor for tensor in tensors if tensor is not None]
    n = len(templates)
    # What stood in the output before must not matter.
    sums, nonfinite = torch.full((n,), math.nan, dtype=torch.float64), torch.full((n,), -7.0, dtype=torch.float64)
    with way(name):
        SquareSums(templates)(tensors, sums, nonfinite)
    return sums, nonfinite


def assert_exact(tensors: list[Tensor | None], templates: list[Tensor] | None = None) -> None:
    """Every way gives the float64 reference."""
    expected = torch.tensor([reference(tensor) for tensor in tensors], dtype=torch.float64).view(-1, 2)
    for name in WAYS:
        sums, nonfinite = measure(tensors, templates, name)
        torch.testing.assert_close(sums, expected[:, 0], rtol=1e-6, atol=0.0, msg=lambda m, w=name: f'{w}: {m}')
        assert nonfinite.tolist() == expected[:, 1].tolist(), name


shapes = st.lists(st.integers(0, 9), max_size=4).map(tuple)
dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])
layouts = st.sampled_from(['plain', 'transposed', 'strided', 'expanded'])


@st.composite
def any_tensor(draw: st.DrawFn) -> Tensor:
    shape = draw(st.one_of(shapes, st.sampled_from([(size,) for size in LONG_SIZES]), st.just((3, 2, 41, 43))))
    dtype = draw(dtypes)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    exponent = draw(st.integers(-30, 30)) if dtype != torch.float16 else draw(st.integers(-2, 2))
    tensor = (torch.randn(shape, generator=generator, dtype=torch.float64) * 10.0**exponent).to(dtype)
    layout = draw(layouts)
    if layout == 'transposed':
        tensor = tensor.permute(tuple(reversed(range(tensor.dim()))))
    elif layout == 'strided' and tensor.dim():
        tensor = tensor.repeat_interleave(2, dim=-1)[..., ::2]
    elif layout == 'expanded':
        tensor = tensor.unsqueeze(0).expand(3, *tensor.shape)
    if layout != 'expanded' and tensor.numel() and draw(st.booleans()):
        for _ in range(draw(st.integers(1, 3))):
            place = tuple(draw(st.integers(0, size - 1)) for size in tensor.shape)
            tensor[place] = draw(st.sampled_from([math.nan, math.inf, -math.inf, 0.0]))
    return tensor


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.lists(any_tensor(), max_size=5), st.data())
def test_any_list_equals_float64(tensors: list[Tensor], data: st.DataObject) -> None:
    absent = data.draw(st.sets(st.sampled_from(range(len(tensors)))) if tensors else st.just(set()))
    assert_exact([None if index in absent else tensor for index, tensor in enumerate(tensors)], tensors)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300_000), st.floats(1e-3, 1e3), st.sampled_from([torch.float32, torch.bfloat16]))
def test_equal_values_do_not_drift(size: int, value: float, dtype: torch.dtype) -> None:
    """Equal addends round the same way at each addition: the worst case of a long float32 accumulator."""
    tensor = torch.full((size, 1), value, dtype=dtype)
    for name in WAYS:
        sums, _ = measure([tensor], name=name)
        assert math.sqrt(sums[0]) == pytest.approx(math.sqrt(reference(tensor)[0]), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    'make', sampled([lambda n: torch.full((n,), 0.1), torch.randn, torch.rand]), ids=['0.1', 'normal', 'one sign']
)
def test_ten_million_elements(make: object) -> None:
    tensor = make(10_000_019)  # type: ignore[operator]
    sums, _ = measure([tensor])
    # A single float32 accumulator is off by 1e-5 and more here.
    assert math.sqrt(sums) == pytest.approx(math.sqrt(reference(tensor)[0]), rel=5.5e-7)


@pytest.mark.parametrize('shape', [(7,), (5, 5), (3, 4001), (130, 1009), ()])
@pytest.mark.parametrize('scale', [1e25, 3e38, 1e19, 1.8e19, 1e-16, 1e-19, 1e-21, 1e-25, 1e-38, 1e-42])
def test_extreme_scales(shape: tuple[int, ...], scale: float) -> None:
    ramp = torch.linspace(0.1, 1.0, math.prod(shape)).reshape(shape)
    assert_exact([ramp * scale, torch.ones(3, 3)])


def test_one_huge_value_among_ordinary_ones() -> None:
    for size in (9, 100, 5000, 100_000):
        tensor = torch.randn(size, 1)
        tensor[size // 2] = 1e25
        assert_exact([tensor, tensor.view(-1)])


def test_zeros_and_ordinary_values_need_no_second_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(careful, 'careful_sum_of_squares', None)
    zeros = [torch.zeros(5), torch.zeros(100, 100), torch.zeros(80, 80).bfloat16(), -torch.zeros(3, 3)]
    for zero in zeros:
        assert sum_of_squares(zero) == (0.0, 0)
    for scale in (1e-12, 1e-6, 1.0, 1e6, 1e12):
        for shape in ((5,), (7, 7), (90, 91), (300, 300)):
            assert sum_of_squares(scale * torch.randn(shape))[0] > 0


def test_one_plan_serves_changing_lists() -> None:
    templates = [torch.zeros(shape) for shape in ((5,), (6,), (5, 5), (6, 6), (100, 100), (90, 90))]
    templates += [torch.zeros(90, 90, dtype=torch.bfloat16)]
    out, nonfinite = torch.zeros(7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64)
    sums = SquareSums(templates)
    for absent in ((), (0, 2, 4, 6), (1, 3, 5), (), range(7), ()):
        tensors = [None if i in absent else torch.randn_like(template) for i, template in enumerate(templates)]
        if tensors[3] is not None:
            tensors[3][0, 0] = math.nan
        sums(tensors, out, nonfinite)
        assert out.tolist() == pytest.approx([reference(tensor)[0] for tensor in tensors], rel=1e-6, abs=0.0)
        assert nonfinite.tolist() == [float(i == 3 and tensor is not None) for i, tensor in enumerate(tensors)]


def test_layouts_of_long_tensors() -> None:
    images = torch.randn(20, 30, 9, 11)
    assert_exact(
        [
            images.contiguous(memory_format=torch.channels_last),
            images.transpose(0, 2),
            images[:, ::2],
            images[..., :5],
            torch.randn(70, 1, 99).expand(70, 40, 99),
            torch.tensor(2.0).expand(100, 1000),
            torch.randn(200, 300).t().double(),
            images.contiguous(memory_format=torch.channels_last).bfloat16()[:, 1:],
        ]
    )


def test_gradients_with_another_layout_than_their_parameters() -> None:
    parameters = [torch.randn(6, 5), torch.randn(60, 50, 3, 3), torch.randn(64), torch.randn(100, 100)]
    gradients = [
        torch.randn(5, 6).t(),
        torch.randn(60, 50, 3, 3).contiguous(memory_format=torch.channels_last),
        torch.randn(128)[::2],
        torch.randn(100, 200)[:, ::2],
    ]
    assert_exact(gradients, parameters)


@pytest.mark.parametrize('template_dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_other_dtypes_than_the_templates(template_dtype: torch.dtype) -> None:
    shapes = [(6,), (6, 5), (100, 100), (33, 2)]
    templates = [torch.zeros(shape, dtype=template_dtype) for shape in shapes]
    for dtype in (torch.float64, torch.bfloat16, torch.float16, torch.float32):
        given = [300 * torch.randn(shape).to(dtype) for shape in shapes]
        assert_exact(given, templates)


def test_sparse_gradients() -> None:
    rows = torch.tensor([[1, 3, 1]])
    small = torch.sparse_coo_tensor(rows, torch.randn(3, 5), (7, 5))
    large = torch.sparse_coo_tensor(rows, torch.randn(3, 500), (70, 500))
    vector = torch.sparse_coo_tensor(rows, torch.randn(3), (9,))
    templates = [torch.zeros(7, 5), torch.zeros(70, 500), torch.zeros(9)]
    assert_exact([small, large, vector], templates)


def test_empty_lists_and_integers() -> None:
    assert_exact([])
    assert_exact([torch.zeros(0), torch.zeros(3, 0), torch.arange(10), torch.arange(90_000).view(300, 300) % 7])


def test_complex_templates_are_refused() -> None:
    with pytest.raises(TypeError, match='template 1 must be real'):
        SquareSums([torch.zeros(2), torch.zeros(2, dtype=torch.complex64)])


@pytest.mark.parametrize('name', WAYS)
@pytest.mark.parametrize('shape', [(5,), (5, 5), (100, 100)])
def test_another_size_is_an_error(shape: tuple[int, ...], name: str) -> None:
    templates = [torch.zeros(3), torch.zeros(shape), torch.zeros(2, 2)]
    tensors = [torch.zeros(3), torch.zeros(shape[0] + 1, *shape[1:]), torch.zeros(2, 2)]
    with pytest.raises(ValueError, match='tensor 1 must have'):
        measure(tensors, templates, name)
    with pytest.raises(ValueError, match='expected 3 tensors, got 2'):
        measure(tensors[:2], templates, name)


def test_short_tensors_swapped_are_an_error() -> None:
    with pytest.raises(ValueError, match='tensor 0 must have 3'):
        measure([torch.zeros(4), torch.zeros(3)], [torch.zeros(3), torch.zeros(4)])


@pytest.mark.parametrize('name', WAYS)
def test_another_shape_of_as_many_elements(name: str) -> None:
    tensor = torch.randn(6, 4)
    assert measure([tensor], [torch.zeros(4, 6)], name)[0].tolist() == pytest.approx([reference(tensor)[0]], rel=1e-6)


def test_no_warning_at_overflow() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert_exact(
            [
                torch.tensor([[1e30]]),
                torch.full((90, 90), 1e30),
                torch.full((5000,), math.nan),
                torch.tensor([math.inf]),
            ]
        )


@pytest.mark.parametrize('name', WAYS)
def test_inputs_graph_and_random_state_are_left_alone(name: str) -> None:
    tensors = [torch.randn(shape, requires_grad=True) for shape in ((), (9,), (9, 9), (99, 99), (9, 4, 200))]
    tensors += [torch.randn(8, 8, dtype=torch.bfloat16, requires_grad=True)]
    tensors += [(tensor * 2).relu() for tensor in tensors]  # with a graph
    before = [tensor.detach().clone() for tensor in tensors]
    versions = [tensor._version for tensor in tensors]
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    sums, nonfinite = measure(tensors, name=name)
    assert not sums.requires_grad
    assert not nonfinite.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    assert versions == [tensor._version for tensor in tensors]
    assert all(tensor.grad is None for tensor in tensors if tensor.is_leaf)
    assert torch.equal(state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()
    assert sums.tolist() == pytest.approx([reference(tensor)[0] for tensor in tensors], rel=1e-6)


@pytest.mark.parametrize('name', sampled(WAYS))
def test_no_tensor_is_held(name: str) -> None:
    tensors: list[Tensor | None] = [torch.randn(shape) for shape in ((9,), (9, 9), (99, 99), (3, 3, 3))]
    out, nonfinite = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    with way(name):
        sums = SquareSums(tensors)  # type: ignore[arg-type]
        sums(tensors, out, nonfinite)
    references = [weakref.ref(tensor.untyped_storage()) for tensor in tensors if tensor is not None]
    references += [weakref.ref(tensor) for tensor in tensors if tensor is not None]  # type: ignore[misc]
    tensors.clear()
    gc.collect()
    assert all(reference() is None for reference in references)


def test_parameters_that_move_and_change() -> None:
    shapes = [(9,), (9, 9), (8, 3, 3), (99, 99)]
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    sums = SquareSums(parameters)
    out, nonfinite = torch.zeros(len(shapes), dtype=torch.float64), torch.zeros(len(shapes), dtype=torch.float64)

    def check() -> None:
        sums(parameters, out, nonfinite)
        assert out.tolist() == pytest.approx([reference(parameter)[0] for parameter in parameters], rel=1e-6)

    check()
    with torch.no_grad():
        for parameter in parameters:
            parameter.mul_(3.0)
    check()
    for parameter in parameters:  # other memory
        parameter.data = torch.randn(parameter.shape)
    check()
    parameters[1].data = torch.randn(9, 18)[:, ::2]  # a view that nothing can flatten without a copy
    check()
    with torch.no_grad():
        parameters[1].mul_(3.0)
    check()
    for dtype in (torch.float64, torch.bfloat16):
        for parameter in parameters:
            parameter.data = parameter.data.to(dtype)
        check()
        with torch.no_grad():
            for parameter in parameters:
                parameter.mul_(3.0)
        check()


def test_threads_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, '_THREADED', 1)
    monkeypatch.setattr(host, '_SHARE', 50_000)
    tensors = [torch.randn(300, 100 + index) for index in range(12)]
    tensors[5] = tensors[5][:, ::2]
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(measure(tensors)[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert results[0].tolist() == pytest.approx([reference(tensor)[0] for tensor in tensors], rel=1e-6)


def test_device_path_over_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, '_SMALLEST', 2048)
    assert_exact([torch.randn(5), torch.randn(3000), torch.randn(77, 99).t(), torch.randn(512), torch.randn(1, 4097)])


def test_device_path_of_a_model_that_becomes_wider() -> None:
    narrow = [torch.full((2, 3), 1e10), None, torch.ones(5, dtype=torch.float16)]
    with way('accelerator'):
        sums = SquareSums([torch.zeros(2, 3), torch.zeros(1), torch.zeros(5, dtype=torch.float16)])
    out, nonfinite = torch.empty(3, dtype=torch.float64), torch.empty(3, dtype=torch.float64)
    sums(narrow, out, nonfinite)
    assert out.tolist() == [pytest.approx(6e20), 0.0, pytest.approx(5.0)]
    sums([torch.full((2, 3), 1e100, dtype=torch.float64), None, torch.ones(5)], out, nonfinite)
    assert out.tolist() == [pytest.approx(6e200), 0.0, pytest.approx(5.0)]
    assert nonfinite.tolist() == [0.0, 0.0, 0.0]


def test_device_path_never_reads_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [torch.randn(5), torch.tensor([[math.nan, 1e25]]), torch.randn(100, 100)]
    with way('accelerator'):
        sums = SquareSums(tensors)
    out, nonfinite = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)

    def unexpected(self: Tensor, *args: object) -> None:
        raise AssertionError('a read that waits for the device')

    with monkeypatch.context() as patched:
        for name in ('item', 'tolist', 'numpy', 'cpu', '__bool__', '__float__', '__int__', 'nonzero', '__index__'):
            patched.setattr(Tensor, name, unexpected)
        sums(tensors, out, nonfinite)
    assert out.tolist() == pytest.approx([reference(tensor)[0] for tensor in tensors], rel=1e-6)
    assert nonfinite.tolist() == [0.0, 1.0, 0.0]


def test_careful_sum_takes_any_layout() -> None:
    tensor = torch.randn(300, 400)[:, ::2]
    tensor[3, 5], tensor[299, 0] = math.inf, math.nan
    expected, nonfinite = reference(tensor)
    total, count = careful_sum_of_squares(tensor.expand(2, 300, 200))
    assert (total, count) == (pytest.approx(2 * expected, rel=1e-12), 2 * nonfinite)


def test_without_a_compiler_small_tensors_are_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, 'kernels', None)
    slowly: list[int] = []
    careful = host.sum_of_squares
    monkeypatch.setattr(host, 'sum_of_squares', lambda tensor: (slowly.append(tensor.numel()), careful(tensor))[1])
    tensors: list[torch.Tensor | None] = [torch.randn(3, 5, dtype=dtype) * 1e3 for dtype in FLOATS for _ in range(20)]
    tensors += [torch.nn.Parameter(torch.randn(7, 2)).t(), torch.randn(1, 4).expand(5, 4), torch.zeros(0), None]
    broken = [torch.tensor([3.0, math.nan, -4.0]), torch.tensor([1e200, 1e200], dtype=torch.float64)]
    large = torch.randn(300, 300)
    sums, bad = measured([*tensors, *broken, large])
    exact = [0.0 if tensor is None else tensor.detach().double().square().sum().item() for tensor in tensors]
    assert sums[: len(tensors)] == pytest.approx(exact, rel=1e-12)
    assert sums[len(tensors)] == 25.0
    assert bad == [0.0] * len(tensors) + [1.0, 0.0, 0.0]
    assert sorted(slowly) == [2, 3, 90_000]


FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def measured(tensors: list[torch.Tensor | None]) -> tuple[list[float], list[float]]:
    sums, bad = torch.zeros(len(tensors), dtype=torch.float64), torch.zeros(len(tensors), dtype=torch.float64)
    SquareSums([torch.zeros(0) if tensor is None else tensor for tensor in tensors])(tensors, sums, bad)
    return sums.tolist(), bad.tolist()
