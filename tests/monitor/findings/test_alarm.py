"""An alarm rings for what must not wait, and for nothing that a healthy run does."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ding_normmon.monitor.findings.alarm import Alarm


def rung(records: list[dict[str, float]]) -> list[int]:
    alarm = Alarm()
    return [index for index, scalars in enumerate(records) if alarm.rings(scalars)]


@pytest.mark.parametrize(
    'name', ['grad/encoder/_total_norm', 'norm/model/_total_norm', 'logits/value/abs_max', 'noreduce_value_loss_task1']
)
def test_a_jump_rings_until_it_is_the_usual(name: str) -> None:
    assert rung([{name: 1.0 if index < 20 else 1e5} for index in range(60)]) == list(range(20, 28))


def test_what_is_not_finite_and_what_a_clip_took_away_ring_every_time() -> None:
    assert rung([{'monitor/nonfinite/grad/encoder': 1.0}] * 30) == list(range(30))
    assert rung([{'clip/model/coefficient': 0.0}] * 30) == list(range(30))
    assert rung([{'clip/model/coefficient': 0.01}] * 30) == []


def test_a_healthy_run_does_not_ring() -> None:
    chance = np.random.default_rng(0)
    records = [
        {'grad/model/_total_norm': float(np.exp(2 * chance.normal())), 'norm/model/_total_norm': 5.0 + index / 100}
        for index in range(500)
    ]
    records[100]['grad/model/_total_norm'] = 0.0
    records[200]['grad/model/_total_norm'] = math.nan
    assert rung(records) == []


def test_other_figures_and_other_names_each_time_do_not_ring() -> None:
    assert rung([{'monitor/cost/ms': 10.0**index, f'my/{index}': 10.0**index} for index in range(30)]) == []


def test_a_raised_learning_rate_rings_and_a_schedule_does_not() -> None:
    rates = [0.1 if index in (20, 21) else 1e-3 for index in range(40)]
    assert rung([{'learning_rate/encoder': rate} for rate in rates]) == [20, 21]
    warm_up = [1e-3 * min(1.0, (index + 1) / 200) for index in range(300)]
    assert rung([{'learning_rate/encoder': rate} for rate in warm_up]) == []
