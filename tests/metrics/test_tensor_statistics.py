"""Statistics of published tensors: masks, norms of vectors, entries that are not finite."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ding_normmon.core.step import LearnerStep, SignalError
from ding_normmon.metrics.kernels import native
from ding_normmon.metrics.masks import align_mask
from ding_normmon.metrics.tensor_statistics import TensorStatistics
from ding_normmon.rows import Batch, RowBuffer, RowTable
from ding_normmon.rows.moments import COUNT, row_of
from tests.models import SmallModel, finished, reference_signals, small_monitor, valid_steps

Signals = dict[tuple[str, int | None], tuple[Tensor, Tensor | None]]


def statistics(signals: Signals, on_host: bool = True) -> dict[str, float]:
    """What the metric makes of the signals."""
    metric = TensorStatistics()
    buffer = RowBuffer(torch.device('cpu'))
    if not on_host:
        buffer.on_host = False
        buffer._allocate(0, 2)
    buffer.begin(0)
    step = LearnerStep(0, listener=None)  # type: ignore[arg-type]
    metric.begin(step)
    for (name, task_id), (tensor, mask) in signals.items():
        metric.on_publish(name, tensor, task_id, mask, buffer)
    metric.measure('forward_end', step, buffer)
    pending = buffer.end()
    assert pending is not None
    rows, _ = buffer.read(pending)
    return dict(metric.derive(RowTable([Batch(0, tuple(pending.keys), np.array(rows).reshape(-1, 6))])))


def check(signals: Signals) -> dict[str, float]:
    """Every way gives what the reference gives: in C, without it, and on an accelerator."""
    expected = reference_signals(signals)
    for kernels, on_host in ((native.kernels, True), (None, True), (None, False)):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(native, 'kernels', kernels)
            found = statistics(signals, on_host)
        assert sorted(found) == sorted(expected)
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=1e-6, abs=1e-12), (name, kernels, on_host)
    return expected


# -- masks -----------------------------------------------------------------------------------------------------------


@given(
    st.integers(0, 4),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from(['steps', 'flat', 'flat1']),
    st.integers(0, 99),
)
def test_a_mask_selects_the_valid_steps(batch: int, steps: int, repeats: int, layout: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, steps, generator=generator) < 0.5
    shape = {'steps': (batch, repeats * steps, 5), 'flat': (batch * steps, 5), 'flat1': (batch * steps, 1, 5)}[layout]
    tensor = torch.randn(shape, generator=generator)
    aligned, valid = align_mask(tensor, mask)
    selected = aligned[valid].reshape(-1, 5)
    times = repeats if layout == 'steps' else 1
    expected = [
        tensor[b, t * times + k] if layout == 'steps' else tensor[b * steps + t].reshape(5)
        for b in range(batch)
        for t in range(steps)
        if mask[b, t]
        for k in range(times)
    ]
    assert selected.tolist() == [row.tolist() for row in expected]


@pytest.mark.parametrize('shape', [(3, 8, 6), (12, 6), (12, 1, 6), (12, 3, 2), (3, 4), (12,)])
def test_every_layout_of_a_signal(shape: tuple[int, ...]) -> None:
    mask = torch.rand(3, 4) < 0.6
    mask[0, 0] = True
    check({('logits/value', 0): (torch.randn(shape), mask), ('logits/value', 1): (torch.randn(shape) + 3, mask)})


@pytest.mark.parametrize('shape', [(3, 8, 6), (12, 6), (12, 1, 6)])
@pytest.mark.parametrize('name', ['x_token', 'embeddings/obs'])
def test_every_layout_of_a_signal_of_vectors(name: str, shape: tuple[int, ...]) -> None:
    mask = torch.rand(3, 4) < 0.6
    mask[0, 0] = True
    check({(name, 0): (torch.randn(shape), mask), (name, 1): (torch.randn(shape) + 3, None)})


@pytest.mark.parametrize('name', ['x_token', 'embeddings/obs', 'logits/value'])
@pytest.mark.parametrize('shape', [(5, 6), (5, 1, 6), (5, 2, 6)])
def test_batches_of_a_single_step(name: str, shape: tuple[int, ...]) -> None:
    mask = torch.tensor([[True], [False], [True], [True], [False]])
    tensor = torch.randn(shape)
    found = statistics({(name, 0): (tensor, mask)})
    values = tensor[mask[:, 0]].double()
    values = values.reshape(-1, 6).norm(dim=-1) if name != 'logits/value' else values
    prefixes = {'x_token': 'norm/x_token_task0/', 'embeddings/obs': 'embeddings/obs_task0/norm_'}
    prefix = prefixes.get(name, f'{name}_task0/')
    assert found[f'{prefix}mean'] == pytest.approx(values.mean().item(), rel=1e-6)
    assert found[f'{prefix}std'] == pytest.approx(values.std().item(), rel=1e-6)
    assert found == pytest.approx(statistics({(name, 0): (tensor, mask)}, on_host=False), rel=1e-9)


@pytest.mark.parametrize('dtype', [torch.bool, torch.float32, torch.int64, torch.uint8])
def test_a_mask_may_be_of_any_dtype(dtype: torch.dtype) -> None:
    mask = torch.tensor([[1, 0], [1, 1]])
    tensor = torch.randn(2, 4, 3)
    signals = {('x_token', 0): (tensor, mask.to(dtype))}
    assert statistics(signals) == statistics({('x_token', 0): (tensor, mask.bool())})


@pytest.mark.parametrize(
    ('tensor', 'mask'),
    [((2, 5, 3), (2, 3)), ((4, 3, 3), (2, 3)), ((2,), (2, 3)), ((), (2, 3)), ((2, 3, 4), (6,)), ((2, 3), (2, 3, 1))],
)
def test_a_mask_that_does_not_fit(tensor: tuple[int, ...], mask: tuple[int, ...]) -> None:
    with pytest.raises(SignalError, match='my/signal'):
        align_mask(torch.zeros(tensor), torch.ones(mask), 'my/signal')


def test_padding_may_hold_anything() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    tensor = torch.randn(2, 4, 3)
    tensor[0, 2:] = math.nan
    found = check({('x_token', 0): (tensor, mask), ('logits/value', 0): (tensor, mask)})
    assert not [name for name in found if 'nonfinite' in name]


# -- over all tasks --------------------------------------------------------------------------------------------------


def test_over_all_tasks_is_not_an_average_of_averages() -> None:
    small, large = torch.full((1, 2), 10.0), torch.tensor([[1.0, 2.0], [3.0, 2.0], [1.0, 3.0]])
    found = check({('logits/value', 0): (small, None), ('logits/value', 1): (large, None)})
    everything = torch.cat([small, large]).flatten()
    assert found['logits/value/mean'] == everything.mean().item() == 4
    assert found['logits/value/std'] == pytest.approx(everything.double().std().item())
    assert found['logits/value/max'] == 10


def test_abs_max_over_all_tasks_may_be_a_minimum() -> None:
    found = check({('a', 0): (torch.tensor([1.0, 2.0]), None), ('a', 1): (torch.tensor([-9.0, 0.0]), None)})
    assert found['a/abs_max'] == 9


def test_policy_logits_of_different_action_spaces() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    signals: Signals = {
        ('logits/policy', task_id): (torch.randn(2, 3, actions) * (1 + task_id), mask)
        for task_id, actions in enumerate((2, 18, 5))
    }
    check(signals)


def test_figures_over_all_tasks_need_all_ranks() -> None:
    metric = TensorStatistics()
    key, row = 'logits/value', row_of(torch.tensor([1.0, 2.0]))
    buffer = RowBuffer(torch.device('cpu'))
    metric.on_publish(key, torch.tensor([1.0, 2.0]), 0, None, buffer)
    batch = Batch(0, tuple(buffer._keys), row[None])
    names = {name for name, _ in metric.derive(RowTable([batch], complete=False))}
    assert names == {f'logits/value_task0/{statistic}' for statistic in ('mean', 'std', 'max', 'min', 'abs_max')}


def test_two_values_for_a_std() -> None:
    found = check({('a', 0): (torch.tensor([1.0]), None)})
    assert 'a/std' not in found
    found = check({('a', 0): (torch.tensor([1.0]), None), ('a', 1): (torch.tensor([3.0]), None)})
    assert found['a/std'] == pytest.approx(math.sqrt(2))
    assert 'a_task0/std' not in found


# -- entries that are not finite -------------------------------------------------------------------------------------


def test_logits_of_impossible_actions_count_as_non_finite() -> None:
    logits = torch.randn(2, 3, 4)
    logits[:, :, 3] = -math.inf
    mask = torch.tensor([[True, True, False], [True, False, False]])
    found = check({('logits/policy', 0): (logits, mask), ('logits/policy', 1): (torch.randn(2, 3, 2), mask)})
    assert found['monitor/nonfinite/logits/policy_task0'] == 3
    assert found['monitor/nonfinite/logits/policy'] == 3
    assert 'monitor/nonfinite/logits/policy_task1' not in found
    assert all(math.isfinite(value) for value in found.values())


def test_a_signal_without_a_finite_entry_has_a_count_only() -> None:
    found = check({('logits/value', 0): (torch.full((2, 3), math.nan), None)})
    assert found == {'monitor/nonfinite/logits/value': 6, 'monitor/nonfinite/logits/value_task0': 6}


def test_a_vector_with_nan_leaves_the_others_clean() -> None:
    tokens = torch.randn(2, 3, 4)
    tokens[0, 0, 0] = math.nan
    found = check({('x_token', 0): (tokens, None)})
    assert found['monitor/nonfinite/x_token_task0'] == 1


@pytest.mark.parametrize('size', [1e25, 1e-25])
def test_norms_of_huge_and_tiny_vectors(size: float) -> None:
    tokens = torch.randn(2, 3, 4) * size
    found = check({('x_token', 0): (tokens, None)})
    assert found['norm/x_token/max'] > 0


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize('name', ['x_token', 'logits/value'])
def test_every_precision(name: str, dtype: torch.dtype) -> None:
    check({(name, 0): ((torch.randn(3, 4, 8) * 30).to(dtype), torch.rand(3, 2) < 0.9)})


def test_the_spread_of_norms_that_hardly_differ() -> None:
    tokens = torch.nn.functional.normalize(torch.randn(50, 4, 64), dim=-1) * (1000 + torch.randn(50, 4, 1) * 1e-2)
    check({('x_token', 0): (tokens, None)})


# -- views and empty tensors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['x_token', 'logits/value'])
def test_views_that_are_not_contiguous(name: str) -> None:
    mask = torch.rand(4, 3) < 0.7
    mask[0, 0] = True
    tensor = torch.randn(6, 4, 5).transpose(0, 1)
    check({(name, 0): (tensor, mask), (name, 1): (tensor[:, ::2], mask)})


@pytest.mark.parametrize('shape', [(0, 4, 3), (2, 0, 3), (0,)])
def test_empty_tensors_are_absent(shape: tuple[int, ...]) -> None:
    for on_host in (True, False):
        found = statistics({('logits/value', 0): (torch.zeros(shape), None)}, on_host)
        assert found == {'monitor/empty/logits/value': 1.0}


def test_what_is_measured_is_not_changed() -> None:
    tensor, mask = torch.randn(2, 4, 3), torch.rand(2, 2)
    before = tensor.clone(), mask.clone()
    statistics({('x_token', 0): (tensor, mask)})
    assert torch.equal(tensor, before[0])
    assert torch.equal(mask, before[1])


def test_the_graph_is_not_held() -> None:
    model = SmallModel()
    monitor = small_monitor(model)
    tensor: Any = torch.randn(2, 3, requires_grad=True) * 2
    with monitor.step(0) as step:
        step.publish('logits/value', tensor, task_id=0)
        step.forward_end()
        step.backward_end()
    assert tensor.grad_fn is not None
    assert finished(monitor)[0].scalars['logits/value_task0/max'] == tensor.max().item()


def test_valid_steps_of_the_reference() -> None:
    mask = torch.tensor([[True, False]])
    assert valid_steps(torch.tensor([[[1.0], [2.0], [3.0], [4.0]]]), mask).tolist() == [[1], [2]]
    assert valid_steps(torch.tensor([[1.0], [2.0]]), mask).tolist() == [[1]]
    assert row_of(valid_steps(torch.zeros(1, 4, 3), mask))[COUNT] == 6


def test_absent_empty_and_late_signals_are_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    monitor = small_monitor(SmallModel())
    caplog.set_level('INFO', logger='ding_normmon')
    batch, no_steps = torch.ones(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool)
    for iteration in range(3):
        with monitor.step(iteration) as step:
            step.publish('x_token', batch, task_id=0)
            if iteration == 0:
                step.publish('x_token', batch, task_id=1)
            if iteration > 0:
                step.publish('late', batch, task_id=2, mask=no_steps)
            step.forward_end()
            step.backward_end()
    first, second, third = finished(monitor)
    assert not [name for name in first.scalars if name.startswith(('monitor/absent', 'monitor/late', 'monitor/empty'))]
    assert second.scalars['monitor/absent/x_token'] == third.scalars['monitor/absent/x_token'] == 1.0
    assert second.scalars['monitor/late/late'] == 1.0
    assert 'monitor/late/late' not in third.scalars
    assert third.scalars['monitor/empty/late'] == 1.0
    assert caplog.text.count('monitor/absent/x_token') == 1


def test_what_goes_on_being_absent_is_counted_in_every_record() -> None:
    monitor = small_monitor(SmallModel())
    for iteration in range(6):
        with monitor.step(iteration) as step:
            step.publish('x_token', torch.ones(2, 3, 4), task_id=0)
            # Present at first, in the middle, and then for good.
            if iteration in (0, 3):
                step.publish('x_token', torch.ones(2, 3, 4), task_id=1)
            step.forward_end()
            step.backward_end()
    absent = [record.scalars.get('monitor/absent/x_token', 0.0) for record in finished(monitor)]
    assert absent == [0.0, 1.0, 1.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize('name', ['logits/value', 'x_token'])
def test_float8(name: str) -> None:
    tensor = torch.randn(3, 4, 5).to(torch.float8_e4m3fn)
    mask = torch.rand(3, 4) > 0.4
    found = statistics({(name, 0): (tensor, mask)})
    assert found == pytest.approx(reference_signals({(name, 0): (tensor.float(), mask)}), rel=1e-6)
