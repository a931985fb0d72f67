"""Clip coefficients against ``clip_grad_norm_``, and how often clipping bites."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from ding_normmon import Monitor
from ding_normmon.core.step import INERT, InertLearnerStep
from ding_normmon.metrics import Clipping
from ding_normmon.metrics.clip_coefficient import clip_coefficient
from ding_normmon.rows.moments import constant_row
from ding_normmon.rows.table import Batch, RowKey, RowTable


def run(norms: list[Any], frequency: int, fraction: bool, max_norm: float = 2.0) -> tuple[Monitor, list[Any]]:
    model = nn.Linear(2, 1)
    monitor = Monitor(model, {'monitor_norm_freq': frequency}, metrics=[Clipping(fraction)])
    for iteration, norm in enumerate(norms):
        with monitor.step(iteration) as step:
            step.forward_end()
            step.backward_end()
            step.clipped(norm, max_norm)
            step.step_end()
    monitor.close()
    return monitor, monitor.take_records()


@pytest.mark.parametrize('scale', [0.01, 1.0, 50.0])
def test_the_coefficient_is_what_torch_applies(scale: float) -> None:
    parameter = nn.Parameter(torch.ones(5))
    parameter.grad = scale * torch.arange(1.0, 6.0)
    before = parameter.grad.clone()
    norm = nn.utils.clip_grad_norm_([parameter], 2.0)
    _, (record,) = run([norm], 1, fraction=False)
    assert record.scalars['clip/model/coefficient'] == pytest.approx(float((parameter.grad / before).mean()), rel=1e-5)
    assert 'clip/model/fraction' not in record.scalars


@pytest.mark.parametrize('max_norm', [0.5, torch.tensor(0.5)])
def test_the_coefficient_of_numbers_that_lie_on_a_device(max_norm: Any) -> None:
    assert float(clip_coefficient(torch.tensor(0.25), max_norm)) == 1.0
    assert float(clip_coefficient(torch.tensor(4.0), max_norm)) == pytest.approx(0.125, rel=1e-6)
    assert float(clip_coefficient(torch.tensor(math.inf), max_norm)) == 0.0, 'what torch multiplies with then'
    assert math.isnan(clip_coefficient(torch.tensor(math.nan), max_norm))


@pytest.mark.parametrize('as_tensor', [False, True])
def test_the_fraction_counts_every_step_since_the_last_record(as_tensor: bool) -> None:
    norms: list[Any] = [1.0, 5.0, 1.0, 3.0, 3.0, 1.0, 1.0, 1.0, 1.0]
    monitor, records = run([torch.tensor(norm) for norm in norms] if as_tensor else norms, 4, fraction=True)
    fractions = {record.iteration: record.scalars['clip/model/fraction'] for record in records}
    assert fractions == {0: 0.0, 4: 0.75, 8: 0.0}
    assert not monitor.lost_data.total


@pytest.mark.parametrize('tells', [False, True])
@pytest.mark.parametrize('frequency', [1, 4])
def test_a_call_that_was_seen_and_told_counts_once(tells: bool, frequency: int) -> None:
    model = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    config = {'monitor_norm_freq': frequency, 'clip_fraction': True}
    norms = [1.0, 5.0, 1.0, 4.0, 3.0, 1.0, 1.0, 1.0, 8.0]
    with Monitor(model, config, optimizer=optimizer) as monitor:
        for norm in norms:
            optimizer.zero_grad()
            (model.weight[0, 0] * norm).backward()
            seen = nn.utils.clip_grad_norm_(model.parameters(), 2.0)
            if tells:
                monitor.learner_step.clipped(seen, 2.0)
            optimizer.step()
    records = monitor.take_records()
    coefficients = {record.iteration: record.scalars['clip/model/coefficient'] for record in records}
    assert coefficients == pytest.approx({i: min(1.0, 2.0 / norms[i]) for i in range(0, 9, frequency)}, rel=1e-5)
    fractions = {record.iteration: record.scalars['clip/model/fraction'] for record in records}
    assert fractions == ({0: 0.0, 4: 0.75, 8: 0.25} if frequency == 4 else {i: float(norms[i] > 2) for i in range(9)})


def test_off_steps_are_inert_unless_the_fraction_was_asked_for() -> None:
    model = nn.Linear(2, 1)
    assert Monitor(model, {'monitor_norm_freq': 2}).begin_step(1) is INERT
    step = Monitor(model, {'monitor_norm_freq': 2, 'preset': 'full'}).begin_step(1)
    assert isinstance(step, InertLearnerStep)
    assert not step.due


def test_a_norm_that_is_nan_has_no_coefficient() -> None:
    _, (record,) = run([float('nan')], 1, fraction=False)
    assert 'clip/model/coefficient' not in record.scalars
    assert record.scalars['monitor/nonfinite/clip/model'] == 1


def test_a_norm_that_overflows_has_the_coefficient_that_is_applied() -> None:
    _, (record,) = run([float('inf')], 1, fraction=False)
    assert record.scalars['clip/model/coefficient'] == 0
    assert 'monitor/nonfinite/clip/model' not in record.scalars


@pytest.mark.parametrize(('dtype', 'size'), [(torch.float32, 1e25), (torch.float16, 3e4)])
def test_finite_gradients_whose_norm_overflows_are_found_as_an_error(dtype: torch.dtype, size: float) -> None:
    model = nn.Linear(8, 2, bias=False, dtype=dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, {'monitor_norm_freq': 1}, optimizer=optimizer) as monitor:
        for _ in range(4):
            model.weight.grad = torch.full_like(model.weight, size)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            assert not model.weight.grad.any()
            optimizer.step()
    records = monitor.take_records()
    assert [record.scalars['clip/model/coefficient'] for record in records] == [0.0] * 4
    assert [record.scalars['grad/model/_total_norm'] for record in records] == pytest.approx([size * 4] * 4, rel=1e-3)
    [finding] = [finding for finding in monitor.diagnosis.findings if finding.severity == 'error']
    assert (finding.rule, finding.since, finding.found) == ('clipped_to_zero', 0, 2)
    assert 'checkpoint' in finding.advice


def test_ranks_that_clip_for_themselves_re_weight_their_tasks() -> None:
    metric = Clipping()
    coefficients = {0: 0.5, 1: 1.0}
    batches = []
    for rank, tasks in enumerate([(0, 1), (2,)]):
        keys = [RowKey('clipping', 'model'), RowKey('clipping', 'model', None, 'local')]
        keys += [RowKey('clipping', 'model', task) for task in tasks]
        rows = torch.tensor([constant_row(1.0 if key.part else coefficients[rank]).tolist() for key in keys]).numpy()
        batches.append(Batch(0, tuple(keys), rows.astype('float64')))
    scalars = dict(metric.derive(RowTable(batches)))
    mean = (0.5 + 0.5 + 1.0) / 3
    assert scalars == pytest.approx(
        {
            'clip/model/coefficient': 0.75,
            'clip/model/coefficient_min': 0.5,
            'clip/model/coefficient_max': 1.0,
            'clip/model_task0/weight': 0.5 / mean,
            'clip/model_task1/weight': 0.5 / mean,
            'clip/model_task2/weight': 1.0 / mean,
        }
    )
