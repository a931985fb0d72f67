"""The compiled sums against float64 in torch, what they leave to others, and life without them."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ding_normmon import Monitor
from ding_normmon.metrics.kernels import native
from ding_normmon.metrics.kernels.squares import SquareSums
from ding_normmon.metrics.masks import align_mask
from ding_normmon.rows.moments import row_of

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
kernels = native.kernels

pytestmark = pytest.mark.skipif(kernels is None, reason='installed without a compiler')


@pytest.fixture(params=['dlpack', 'asked by name'], autouse=True, scope='module')
def connection(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Both ways to look into a tensor, that of torch from 2.10 on and that of an older one."""
    dlpack = request.param == 'dlpack'
    arguments = (torch.Tensor, torch.nn.Parameter, native._DTYPES, torch._is_functional_tensor)
    assert kernels.connect(*arguments, dlpack) is dlpack
    yield dlpack
    kernels.connect(*arguments, True)


def reference(tensor: Tensor, mask: Tensor | None, is_norm: bool) -> list[float]:
    """count, mean, m2, minimum, maximum, nonfinite in float64."""
    if mask is not None:
        tensor, valid = align_mask(tensor, mask)
        tensor = tensor[valid]
    wide = tensor.double()
    numbers = wide.square().sum(dim=-1).sqrt() if is_norm else wide
    finite = numbers[torch.isfinite(numbers)]
    nonfinite = numbers.numel() - finite.numel()
    if not finite.numel():
        return [0.0, 0.0, 0.0, math.inf, -math.inf, nonfinite]
    mean = float(finite.mean())
    spread = float((finite - mean).square().sum())
    return [finite.numel(), mean, spread, float(finite.min()), float(finite.max()), nonfinite]


def assert_row(tensor: Tensor, mask: Tensor | None = None, is_norm: bool = False) -> None:
    found = kernels.row(tensor, mask, is_norm)
    assert found is not None
    expected = reference(tensor, mask, is_norm)
    scale = max(abs(expected[3]), abs(expected[4])) if expected[0] else 0.0
    assert [found[0], found[5]] == [expected[0], expected[5]]
    if is_norm:  # torch may add the squares of a vector in another order
        assert found[3:5] == pytest.approx(expected[3:5], rel=1e-14)
    else:
        assert list(found[3:5]) == expected[3:5]
    assert found[1] == pytest.approx(expected[1], rel=1e-12, abs=1e-12 * scale)
    assert found[2] == pytest.approx(expected[2], rel=1e-9, abs=1e-12 * scale * scale)


@st.composite
def signal(draw: st.DrawFn) -> tuple[Tensor, Tensor | None, bool]:
    batch, steps, repeats = draw(st.integers(1, 6)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    inner = draw(st.sampled_from([(), (1,), (3,), (17,), (40,), (2, 5)]))
    dtype = draw(st.sampled_from(DTYPES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    offset = draw(st.sampled_from([0.0, 3.0, 1e4]))
    is_flat = draw(st.booleans())
    outer = (batch * steps,) if is_flat else (batch, repeats * steps)
    tensor = (torch.randn(outer + inner, generator=generator, dtype=torch.float64) + offset).to(dtype)
    layout = draw(st.sampled_from(['plain', 'every other batch', 'every other step', 'swapped', 'part']))
    if layout == 'every other batch':
        tensor = tensor.repeat_interleave(2, dim=0)[::2]
    elif layout == 'every other step' and not is_flat:
        tensor = tensor.repeat_interleave(2, dim=1)[:, 1::2]
    elif layout == 'swapped' and not is_flat:
        tensor = tensor.transpose(0, 1).contiguous().transpose(0, 1)
    elif layout == 'part':
        tensor = torch.cat([tensor, tensor], dim=0)[: len(tensor)]
    mask = None
    if draw(st.booleans()):
        mask = torch.rand(batch, steps, generator=generator) < draw(st.sampled_from([0.0, 0.5, 1.0]))
        if draw(st.booleans()):
            mask = mask.t().contiguous().t()
        mask = mask.to(draw(st.sampled_from([torch.bool, torch.float32, torch.float64])))
    if draw(st.booleans()):
        for _ in range(draw(st.integers(1, 3))):
            place = tuple(draw(st.integers(0, size - 1)) for size in tensor.shape)
            tensor[place] = draw(st.sampled_from([math.nan, math.inf, -math.inf]))
    return tensor, mask, bool(inner) and draw(st.booleans())


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(signal())
def test_any_row_equals_float64(given: tuple[Tensor, Tensor | None, bool]) -> None:
    tensor, mask, is_norm = given
    # (B, E) under a mask of one step are B vectors; where these have gaps, they are left to others.
    if mask is not None and tensor.ndim == 2 and mask.shape[1] == 1 and tensor.stride(1) != 1 < tensor.shape[1]:
        assert kernels.row(tensor, mask, is_norm) is None
        return
    assert_row(tensor, mask, is_norm)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_every_number_of_half_precision(dtype: torch.dtype) -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    numbers = bits.view(dtype)
    for number in numbers[torch.isfinite(numbers)].split(1)[::97]:
        assert kernels.number(number) == float(number)
    # Steps of one number each, so that all of them become minimum and maximum of some row.
    for part in numbers.split(1024):
        assert_row(part)
        sums, nonfinite = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        assert kernels.squares([part], [len(part)], sums, nonfinite, 0, 1) == []
        wide = part.double()[torch.isfinite(part)]
        assert float(sums) == pytest.approx(float(wide.square().sum()), rel=1e-14)
        assert int(nonfinite) == len(part) - len(wide)


def test_large_rows_release_the_lock_and_stay_exact() -> None:
    tensor = 1e6 + 1e-2 * torch.randn(700, 1000, dtype=torch.float64)
    assert_row(tensor)
    assert_row(tensor.float(), torch.rand(700, 10) < 0.7)
    tensor = tensor.view(700, 10, 100)
    tensor[3, 5, 7], tensor[699, 9, 99] = math.nan, math.inf
    assert_row(tensor, torch.rand(700, 10) < 0.7, True)


@pytest.mark.parametrize('length', [1, 2, 15, 16, 17, 63, 64, 65, 127, 129, 511, 512, 513, 1025])
def test_every_length_counts_all(length: int) -> None:
    for dtype in DTYPES:
        tensor = torch.randn(length).to(dtype)
        assert_row(tensor)
        assert_row(tensor[None], is_norm=True)
        tensor[-1] = 60_000.0
        assert kernels.row(tensor, None, False)[4] == float(tensor[-1])


def test_extremes() -> None:
    for scale in (1e-42, 1e-30, 1e25, 3e38):
        assert_row(scale * torch.linspace(-1, 1, 99))
    assert kernels.row(torch.tensor([1e300, -1e300], dtype=torch.float64), None, False) is None  # left to NumPy
    assert kernels.row(torch.tensor([math.nan]), None, False) == (0.0, 0.0, 0.0, math.inf, -math.inf, 1.0)
    # The shift of a row is its first number; nothing must depend on which one that is.
    for first in (math.nan, math.inf, 1e30):
        assert_row(torch.tensor([first, 1.0, 2.0, 4.0], dtype=torch.float64))


def test_what_is_left_to_others() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    good = torch.randn(2, 3, 4)
    left = [
        (torch.arange(6), None),
        (torch.zeros(0, 4), None),
        (torch.zeros(2, 3, dtype=torch.complex64), None),
        (good.to_sparse(), None),
        (torch.empty(2, 3, device='meta'), None),
        (good.as_subclass(type('Subclass', (Tensor,), {})), None),
        (torch.tensor([1 + 2j]).conj().imag, None),
        (torch.zeros(1, 1, 1, 1, 1, 1, 1, 1, 2)[..., ::2], None),
        (good[..., ::2], mask),
        (good, mask.long()),
        (good, mask[0]),
        (good, mask[:, :2]),
        (good, mask[:, :0]),
        (torch.randn(5, 4), mask),
        (torch.tensor(1.0), mask),
        ([1.0], None),
        (None, None),
        (good, [[True]]),
    ]
    for tensor, valid in left:
        assert kernels.row(tensor, valid, False) is None, (tensor, valid)
    assert kernels.row(torch.tensor(1.0), None, True) is None
    assert kernels.row(torch.randn(2, 3), mask, True) is None
    assert kernels.number(torch.zeros(2)) is kernels.number(torch.tensor(1)) is kernels.number('1') is None
    assert native.number_of(torch.tensor([1 + 2j]).conj().imag) == -2.0


def test_squares_tell_what_they_left() -> None:
    sums, nonfinite = torch.full((7,), -1.0, dtype=torch.float64), torch.full((7,), -1.0, dtype=torch.float64)
    tensors = [torch.ones(2), torch.ones(4, 4)[:, ::2], None, torch.arange(3), torch.ones(3), torch.ones(2).to_sparse()]
    tensors.append(torch.nn.Parameter(torch.full((2, 2), 3.0)))
    numels = [2, 8, 5, 3, 2, 2, 4]
    assert kernels.squares(tensors, numels, sums, nonfinite, 0, 7) == [1, 3, 4, 5]
    assert sums.tolist() == [2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 36.0]
    assert nonfinite.tolist() == [0.0] * 7
    sums.fill_(-1.0)
    assert kernels.squares(tensors, numels, sums, nonfinite, 6, 7) == []
    assert sums.tolist() == [-1.0] * 6 + [36.0]  # what is not asked for stays


@pytest.mark.parametrize('dtype', DTYPES)
def test_distances_are_those_of_float64(dtype: torch.dtype) -> None:
    online = [torch.randn(length).to(dtype) for length in (1, 7, 8, 9, 513)]
    online.append(torch.randn(2, 3, 4, 5).to(dtype).contiguous(memory_format=torch.channels_last))
    target = [tensor + torch.randn_like(tensor) / 8 for tensor in online]
    away, size = kernels.distance(online, target)
    pairs = zip(online, target, strict=True)
    assert away == pytest.approx(sum(float((a.double() - b.double()).square().sum()) for a, b in pairs))
    assert size == pytest.approx(sum(float(a.double().square().sum()) for a in online))
    assert not math.isfinite(kernels.distance([*online, torch.tensor([math.nan]).to(dtype)], [*target, online[0]])[0])


def test_sums_do_not_depend_on_where_a_tensor_lies() -> None:
    tensor = torch.randn(100_003)
    results = set()
    for offset in (0, 1, 3, 8):
        storage = torch.zeros(100_003 + offset)
        storage[offset:] = tensor
        sums, nonfinite = torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        kernels.squares([storage[offset:]], [100_003], sums, nonfinite, 0, 1)
        results.add(float(sums))
    assert len(results) == 1


def test_wrong_arguments_raise() -> None:
    out = torch.zeros(1, dtype=torch.float64)
    for arguments in (
        ([torch.ones(2)], [2], out),
        ((torch.ones(2),), [2], out, out, 0, 1),
        ([torch.ones(2)], [2], out, out, 0, 'x'),
        ([torch.ones(2)], ['2'], out, out, 0, 1),
    ):
        with pytest.raises(TypeError):
            kernels.squares(*arguments)
    for arguments in (
        ([torch.ones(2)], [2], out.float(), out, 0, 1),
        ([torch.ones(2)], [2], out, torch.zeros(2, dtype=torch.float64), 0, 1),
        ([torch.ones(2)], [2, 3], out, out, 0, 1),
        ([torch.ones(2)], [2], out, out, 0, 2),
        ([torch.ones(2)], [2], out, out, 1, 0),
    ):
        with pytest.raises(ValueError, match=r'as long as the list|differ in length'):
            kernels.squares(*arguments)
    with pytest.raises(TypeError):
        kernels.row(out)
    with pytest.raises(TypeError):
        kernels.connect(1, 2, 3, 4, 5)


def test_nothing_leaks() -> None:
    """References are counted by hand there."""
    import sys

    tensor, mask = torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)
    tensors, numels = [tensor, None, torch.ones(3)[::2]], [24, 5, 2]
    sums, nonfinite = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    held = [tensor, mask, tensors, numels, sums, nonfinite, None, torch.float32]
    before = [sys.getrefcount(entry) for entry in held]
    for _ in range(1000):
        kernels.squares(tensors, numels, sums, nonfinite, 0, 3)
        kernels.row(tensor, mask, True)
        kernels.row(tensor, None, False)
        kernels.row(mask, mask, False)
        kernels.number(tensor)
    after = [sys.getrefcount(entry) for entry in held]
    assert all(abs(one - other) < 100 for one, other in zip(before, after, strict=True))


class TestWithoutThem:
    def test_figures_are_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model = torch.nn.Sequential(torch.nn.Linear(40, 70), torch.nn.Linear(70, 3)).double().float()
        inputs, mask = torch.randn(8, 5, 40), torch.rand(8, 5) < 0.6
        mask[0, 0] = True
        records = []
        for known in (kernels, None):
            monkeypatch.setattr(native, 'kernels', known)
            monitor = Monitor(model, {'monitor_norm_freq': 1}, num_tasks=2)
            model.zero_grad()
            with monitor.step(0) as step:
                outputs = model(inputs)
                for task_id, name in itertools.product((0, 1), ('x_token', 'logits/value')):
                    step.publish(name, outputs * (1 + task_id), task_id=task_id, mask=mask)
                    step.publish_loss(f'{name}_loss', outputs.mean(), task_id=task_id)
                step.forward_end()
                outputs.square().mean().backward()
                step.backward_end()
            monitor.close()
            records.append(monitor.take_records()[0].scalars)
        compiled, plain = (
            {name: value for name, value in scalars.items() if not name.startswith('monitor/cost')}
            for scalars in records
        )
        assert len(plain) > 20
        assert compiled == pytest.approx(plain, rel=1e-6)

    def test_it_is_said_once(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        monkeypatch.setattr(native, 'kernels', None)
        monkeypatch.setattr(native, '_said', False)
        with caplog.at_level(logging.WARNING, 'ding_normmon'):
            for _ in range(2):
                Monitor(torch.nn.Linear(2, 1), {'monitor_norm_freq': 1}).close()
        assert [record.message for record in caplog.records if 'compiled part' in record.message] == [
            'monitor: the compiled part is missing (). Figures are the same, measuring takes longer. To build it, '
            'install a C compiler and run pip install . in the checkout again'
        ]

    def test_rows_of_numpy_agree(self) -> None:
        for dtype in (torch.float32, torch.float64):
            tensor = (torch.randn(50, 40) * 3 + 7).to(dtype)
            assert kernels.row(tensor, None, False) == pytest.approx(row_of(tensor).tolist(), rel=1e-12)
            assert np.isfinite(kernels.row(tensor, None, True)).all()


ZEROS: Any = torch._efficientzerotensor((40_000, 2))


@pytest.mark.usefixtures('connection')
@pytest.mark.parametrize('zeros', [ZEROS, ZEROS[2:], ZEROS[:, 1], ZEROS[30_000:30_003]])
def test_zeros_that_were_never_written(zeros: torch.Tensor) -> None:
    assert kernels.row(zeros, None, False) is None
    assert row_of(zeros).tolist() == [zeros.numel(), 0.0, 0.0, 0.0, 0.0, 0.0]
    small = zeros[:8]
    sums, nonfinite = torch.full((2,), 7.0, dtype=torch.float64), torch.full((2,), 7.0, dtype=torch.float64)
    SquareSums([small, torch.ones(3)])([small, torch.ones(3)], sums, nonfinite)
    assert sums.tolist() == [0.0, 3.0]


@pytest.mark.usefixtures('connection')
def test_numbers_with_their_signs_turned() -> None:
    turned = torch.fft.rfft(torch.randn(3, 9)).conj().imag
    assert turned.is_neg()
    assert kernels.row(turned, None, False) is None
    np.testing.assert_allclose(row_of(turned), row_of(turned.clone().double()), rtol=1e-12)
    sums, nonfinite = torch.empty(1, dtype=torch.float64), torch.empty(1, dtype=torch.float64)
    SquareSums([turned])([turned], sums, nonfinite)
    assert sums.item() == pytest.approx(turned.double().square().sum().item(), rel=1e-6)


@pytest.mark.usefixtures('connection')
def test_a_tensor_that_stands_for_another_is_not_read() -> None:
    assert kernels.row(torch._to_functional_tensor(torch.ones(3)), None, False) is None
    assert kernels.number(torch._to_functional_tensor(torch.ones(()))) is None
