"""The engine: options, user-defined rules, rules that fail, and findings that are only consequences."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from ding_normmon import ConfigurationError
from ding_normmon.core.record import Record
from ding_normmon.diagnose import Diagnosis, Rule, Sign, Window
from ding_normmon.diagnose.invariants import EXACT, EXPECTED
from ding_normmon.diagnose.rules import RULES
from ding_normmon.diagnose.rules.loss_weights import LossWeights
from ding_normmon.metrics import DECLARED
from ding_normmon.runs import Run, Series
from ding_normmon.runs.judge import diagnose
from tests.diagnose.synthetic import TASKS, healthy, times, with_fault


@dataclass
class LargeLoss(Rule):
    name: ClassVar[str] = 'large_loss'
    advice: ClassVar[str] = 'Look.'
    confirm: int = 2
    clear: int = 2
    warmup: int = 0
    limit: float = 10.0

    def signs(self, window: Window) -> Iterable[Sign]:
        for name, value in window.matching('loss').items():
            yield Sign(f'{name} is {value:g}.', value / self.limit)


@dataclass
class Broken(Rule):
    name: ClassVar[str] = 'broken'
    advice: ClassVar[str] = ''
    warmup: int = 0

    def signs(self, window: Window) -> Iterable[Sign]:
        raise KeyError('nonsense')


def observe(diagnosis: Diagnosis, values: list[float]) -> list[tuple[int, bool]]:
    return [
        (record, finding.is_active)
        for record, value in enumerate(values)
        for finding in diagnosis.observe(Record(record, {'loss': value}))
    ]


def test_a_finding_is_raised_once_and_cleared_once() -> None:
    diagnosis = Diagnosis({}, [LargeLoss()])
    #                     1   2: raised   hysteresis: 6 > 5    2 below: cleared   cool-down
    values = [0.0, 20.0, 20.0, 20.0, 6.0, 6.0, 20.0, 1.0, 20.0, 1.0, 1.0, 20.0, 20.0, 20.0]
    assert observe(diagnosis, values) == [(2, True), (10, False)]
    assert diagnosis.active == []
    (finding,) = diagnosis.findings
    assert (finding.since, finding.found, finding.cleared) == (1, 2, 10)


def test_a_pattern_below_the_threshold_is_nothing() -> None:
    assert observe(Diagnosis({}, [LargeLoss()]), [9.0] * 10) == []


def test_options_of_rules_are_set_and_checked() -> None:
    assert observe(Diagnosis({}, [LargeLoss()], {'large_loss': {'limit': 100}}), [20.0] * 5) == []
    assert observe(Diagnosis({}, [LargeLoss()], {'large_loss': False}), [20.0] * 5) == []
    for options, message in (
        ({'large_lost': False}, 'monitor.rules.large_lost: no such rule; the nearest is large_loss'),
        ({'gradient_jump': {'treshold': 3.0}}, 'gradient_jump.treshold: no such option; the nearest is threshold'),
        ({'gradient_jump': {'threshold': 'x'}}, "gradient_jump.threshold: expected a number, got 'x'"),
        ({'gradient_jump': {'confirm': 1.5}}, 'gradient_jump.confirm: expected an integer'),
        ({'gradient_jump': {'severity': 'bad'}}, "expected 'info', 'warning' or 'error'"),
        ({'gradient_jump': {'clear': -1}}, 'expected at least 0'),
    ):
        with pytest.raises(ConfigurationError, match=message):
            Diagnosis({}, [LargeLoss()], options)


def test_a_rule_that_fails_is_switched_off_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    diagnosis = Diagnosis({}, [Broken(), LargeLoss()])
    assert observe(diagnosis, [20.0] * 5) == [(1, True)]
    assert diagnosis.switched_off == {'broken': "KeyError: 'nonsense'"}
    assert sum('broken failed' in record.getMessage() for record in caplog.records) == 1


def test_consequences_of_a_named_task_are_only_information() -> None:
    diagnosis = Diagnosis(TASKS, figures=DECLARED)

    def both(since: int, scalars: dict[str, float], matrices: dict) -> None:  # type: ignore[type-arg]
        for name in scalars:
            if name.startswith('grad/') and ('task2' in name or 'encoder' in name):
                scalars[name] *= 100.0

    for record in with_fault(both):
        diagnosis.observe(record)
    jumps = {finding.tasks: finding.severity for finding in diagnosis.findings if finding.rule == 'gradient_jump'}
    assert jumps == {(2,): 'warning', (): 'info'}


def test_a_run_on_disk_is_judged_like_a_run_that_goes_on() -> None:
    records = with_fault(times('grad/head_policy_task2', 100.0))
    live = Diagnosis(TASKS, figures=DECLARED)
    for record in records:
        live.observe(record)
    series = {}
    for name in {name for record in records for name in record.scalars}:
        points = [(record.iteration, record.scalars[name]) for record in records if name in record.scalars]
        iterations, values = (np.array(column) for column in zip(*points, strict=True))
        series[name] = Series(iterations, values, iterations.astype(float))
    # Somebody else's points at other iterations are no records.
    series['collect/return_task0'] = Series(np.arange(1, 700, 7), np.zeros(100), np.zeros(100))
    replayed = diagnose(Run(Path('run'), series, tasks=TASKS))
    without_matrices = [f for f in live.findings if f.rule != 'conflicting_pair']
    assert [(f.rule, f.tasks, f.found) for f in replayed] == [(f.rule, f.tasks, f.found) for f in without_matrices]


def test_rules_without_their_metrics_are_named() -> None:
    diagnosis = Diagnosis({})
    diagnosis.observe(Record(0, {'norm/encoder/_total_norm': 1.0}))
    assert 'gradient_jump' in diagnosis.not_judged
    assert 'shared_growth' not in diagnosis.not_judged
    full = Diagnosis(TASKS, figures=DECLARED)
    for record in healthy():
        full.observe(record)
    # Nothing of what invariants read is in these records, nor what is differentiated.
    assert full.not_judged.keys() <= {rule.name for rule in (*EXACT, *EXPECTED, LossWeights)}


def test_names_and_advice_are_there_and_unique() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.advice.endswith('.') and rule.__doc__ for rule in RULES)
