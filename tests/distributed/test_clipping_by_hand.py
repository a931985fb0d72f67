"""Gradients that are changed between the backward pass and the step, on two ranks: added up, or clipped by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ding_normmon import Monitor
from ding_normmon.metrics.clipping import AS_FOUND, FOUND
from tests.distributed.ranks import run_ranks

pytestmark = pytest.mark.distributed


def norm(model: nn.Module) -> float:
    return sum(float((p.grad.double() ** 2).sum()) for p in model.parameters()) ** 0.5


def train(rank: int, synchronises: str) -> tuple[float, float, dict[str, float], dict[str, str]]:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    data = torch.randn(6, 4, generator=torch.Generator().manual_seed(rank))
    forward = DistributedDataParallel(model) if synchronises == 'in the backward pass' else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, {'monitor_norm_freq': 1, 'setup_timeout': 30}, optimizer=optimizer) as monitor:
        (10 * forward(data)).square().mean().backward()
        if synchronises == 'by hand':
            for parameter in model.parameters():
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()
        before = norm(model)
        if synchronises == 'in the backward pass':
            for parameter in model.parameters():
                parameter.grad.mul_(0.25)
        ratio = norm(model) / before
        optimizer.step()
    records: list[Any] = monitor.take_records()
    return before, ratio, *((records[0].scalars, records[0].notes) if records else ({}, {}))


def test_what_the_ranks_add_up_by_hand_is_no_clipping() -> None:
    (before, _, scalars, notes), _ = run_ranks(train, 2, 'by hand')
    assert scalars['grad/model/_total_norm'] == pytest.approx(before, rel=1e-6)
    assert 'clip/model/coefficient' not in scalars
    assert notes['clip'] == AS_FOUND


def test_clipping_by_hand_after_a_synchronised_backward_pass_is_found() -> None:
    (before, ratio, scalars, notes), _ = run_ranks(train, 2, 'in the backward pass')
    assert scalars['grad/model/_total_norm'] == pytest.approx(before, rel=1e-6)
    assert scalars['clip/model/coefficient'] == pytest.approx(ratio, rel=1e-6)
    assert notes['clip/model'] == FOUND


def train_in_shares(rank: int) -> tuple[list[float], list[float], set[str]]:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 1))
    forward = DistributedDataParallel(model)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.Adam, lr=0.1)
    right = []
    with Monitor(model, {'monitor_norm_freq': 1, 'setup_timeout': 30}, optimizer=optimizer) as monitor:
        for step in range(3):
            optimizer.zero_grad()
            data = torch.randn(6, 4, generator=torch.Generator().manual_seed(2 * step + rank))
            forward(data).square().mean().backward()
            right.append(norm(model))
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
    records = monitor.take_records()
    findings = {finding.rule for record in records for finding in record.findings}
    return right, [record.scalars['grad/model/_total_norm'] for record in records], findings


def test_ranks_that_step_their_shares_and_exchange_them_have_the_same_weights_afterwards() -> None:
    (right, found, findings), _ = run_ranks(train_in_shares, 2)
    assert found == pytest.approx(right, rel=1e-6)
    assert not findings
