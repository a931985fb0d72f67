"""What is differentiated against the losses that it is made of, in records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.faults.storage import load_run
from ding_normmon.core.finding import Finding
from ding_normmon.core.record import Record
from ding_normmon.diagnose import Diagnosis
from ding_normmon.diagnose.rules import RULES
from ding_normmon.metrics import DECLARED

RECORDED = Path(__file__).parents[1] / 'data' / 'faults'
OTHERS = {rule.name: False for rule in RULES if rule.name != 'loss_weights'}
WEIGHTS = {'value_loss': 0.25, 'policy_loss': 0.5, 'obs_loss': 10.0}


def records(tasks: int, changes: dict[tuple[int, str], float], scale: float = 1.0, number: int = 40) -> list[Record]:
    """Return records whose weights are multiplied half way; task -1 has no name."""
    chance, made = np.random.default_rng(3), []
    for iteration in range(number):
        scalars, total = {}, 0.0
        for task in range(tasks):
            for part, weight in WEIGHTS.items():
                value = float(chance.uniform(0.2, 2))
                scalars[f'noreduce_{part}' + (f'_task{task}' if tasks > 1 else '')] = value
                total += weight * value * (changes.get((task, part), 1.0) if iteration >= number // 2 else 1.0)
        factor = scale if iteration % 2 else 2 * scale
        if scale != 1:
            scalars['step/loss_scale'] = factor
        made.append(Record(iteration, {**scalars, 'loss/backward': total * (factor if scale != 1 else 1.0)}))
    return made


def findings(made: list[Record]) -> list[Finding]:
    diagnosis = Diagnosis({}, options=OTHERS, figures=DECLARED)
    for record in made:
        diagnosis.observe(record)
    assert not diagnosis.switched_off
    return diagnosis.findings


@pytest.mark.parametrize(
    ('changes', 'tasks', 'said'),
    [
        (dict.fromkeys([(1, part) for part in WEIGHTS], 20.0), (1,), 'Task 1: its losses count for 20 times'),
        (dict.fromkeys([(1, part) for part in WEIGHTS], 0.0), (1,), 'Task 1: its losses count for 0 times'),
        ({(2, 'policy_loss'): -1.0}, (2,), 'Task 2: its policy_loss counts for -1 times'),
        (dict.fromkeys([(t, 'value_loss') for t in range(3)], 50.0), (), 'The value_loss counts for 50 times'),
        (dict.fromkeys([(t, p) for t in range(3) for p in WEIGHTS], 8.0), (), 'What is differentiated is 8 times'),
    ],
)
def test_the_weight_that_changed_is_named(
    changes: dict[tuple[int, str], float], tasks: tuple[int, ...], said: str
) -> None:
    (finding,) = findings(records(3, changes))
    assert (finding.severity, finding.tasks, finding.since) == ('warning', tasks, 20)
    assert finding.sentence.startswith(said)
    assert finding.found <= 24


def test_a_single_task_has_parts_only() -> None:
    (finding,) = findings(records(1, {(0, 'value_loss'): 30.0}))
    assert (finding.tasks, finding.sentence) == ((), 'The value_loss counts for 30 times what it did.')


@pytest.mark.parametrize('scale', [1.0, 1024.0])
def test_a_little_more_is_not_told_nor_the_scale_of_the_loss(scale: float) -> None:
    assert findings(records(3, dict.fromkeys([(1, part) for part in WEIGHTS], 2.0), scale)) == []


def test_several_backward_passes_are_no_sum() -> None:
    made = records(2, {(0, 'policy_loss'): -1.0})
    for record in made:
        record.scalars['loss/backward_1'] = 1.0
    assert findings(made) == []


@pytest.mark.parametrize('kind', ['loss_weight_up', 'loss_weight_ramps', 'zeroed_gradients', 'policy_detached'])
def test_in_real_runs(kind: str) -> None:
    scenario, run = load_run(RECORDED / f'{kind}-0.npz')
    warnings = [finding for finding in findings(list(run.records())) if finding.severity == 'warning']
    assert [finding.tasks for finding in warnings] == [scenario.tasks]
    assert warnings[0].since >= (scenario.planted or 0)


@pytest.mark.parametrize('path', sorted(RECORDED.glob('healthy-*.npz')), ids=lambda path: path.stem)
def test_healthy_runs_add_their_losses_the_same_way(path: Path) -> None:
    assert findings(list(load_run(path)[1].records())) == []
