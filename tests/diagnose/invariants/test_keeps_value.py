"""Figures that keep their value: the second step with one gradient."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from ding_normmon import Monitor
from ding_normmon.core.record import Record
from ding_normmon.diagnose import Diagnosis


def found_at(has_backward: Callable[[int], bool], steps: int = 120) -> list[int]:
    """Return where steps without a backward pass are told of."""
    diagnosis = Diagnosis({})
    records = (
        Record(i, {'step/optimizer_steps': 1.0, **({'loss/backward': 1.0} if has_backward(i) else {})})
        for i in range(steps)
    )
    return [f.found for record in records for f in diagnosis.observe(record) if f.rule == 'optimizer_steps_change']


@pytest.mark.parametrize(
    'has_backward',
    [
        lambda i: True,
        lambda i: False,
        lambda i: i % 2 == 0,
        lambda i: i % 10 < 8,
        lambda i: i not in (40, 50, 60),
        lambda i: i > 30,
    ],
)
def test_what_has_always_been_so_or_happens_once_says_nothing(has_backward: Callable[[int], bool]) -> None:
    assert found_at(has_backward) == []


def test_every_second_step_without_a_backward_pass_is_told() -> None:
    (found,) = found_at(lambda i: i < 60 or i % 2 == 0)
    assert found == 64


def test_a_loop_that_begins_to_step_twice_is_told_within_five_steps() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    generator = np.random.default_rng(0)
    with Monitor(model, {'monitor_norm_freq': 1, 'budget': None}, optimizer=optimizer) as monitor:
        for i in range(36):
            optimizer.zero_grad()
            model(torch.from_numpy(generator.normal(size=(4, 3))).float()).square().mean().backward()
            for _ in range(1 + (i >= 30)):
                optimizer.step()
    found = [f for record in monitor.take_records() for f in record.findings if f.is_active]
    assert [(f.rule, f.found) for f in found] == [('optimizer_steps_change', 34)]
