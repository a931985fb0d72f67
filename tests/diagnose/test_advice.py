"""Advice that is followed in the run that got it: a fault is planted, found, and mended, and its finding clears."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.faults.scenarios import Scenario, draw
from ding_normmon.diagnose import Diagnosis
from ding_normmon.metrics import DECLARED

pytestmark = pytest.mark.full

PLANTED, MENDED, ITERATIONS, EVERY = 90, 140, 260, 5


def mended(kind: str, strength: float) -> Scenario:
    """Return a run of two tasks whose fault is undone after a while."""
    scenario = draw(kind, 0)
    return dataclasses.replace(
        scenario,
        names=('MiniGrid-Empty-5x5-v0', 'MiniGrid-FourRooms-v0'),
        tasks=(1,) if scenario.scope == 'task' else (),
        planted=PLANTED,
        ends=MENDED,
        iterations=ITERATIONS,
        strength=strength,
        learning_rate=1.0,
        batch_size=4,
    )


@pytest.mark.parametrize(
    ('kind', 'strength', 'rule'),
    [
        ('constant_observations', 1.0, 'data_jump'),
        ('uniform_policies', 1.0, 'target_jump'),
        ('loss_weight_up', 60.0, 'loss_weights'),
        ('learning_rate_zero', 1.0, 'learning_rate'),
        ('frozen_encoder', 1.0, 'no_gradient'),
    ],
)
def test_a_finding_clears_when_its_advice_is_followed(kind: str, strength: float, rule: str) -> None:
    from benchmarks.faults.record_run import record_run

    scenario = mended(kind, strength)
    diagnosis = Diagnosis(dict(enumerate(scenario.names)), figures=DECLARED)
    for record in record_run(scenario):
        if record.iteration % EVERY == 0:
            diagnosis.observe(record)
    told = [f for f in diagnosis.findings if f.rule == rule and f.severity != 'info' and f.found >= PLANTED]
    assert told
    assert PLANTED <= told[0].found < MENDED
    assert told[0].cleared is not None
    assert told[0].cleared > MENDED
