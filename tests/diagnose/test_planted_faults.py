"""The rules on every recorded run with a planted fault: the figures of `make faults` must reach their goals."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from benchmarks.faults.judge import EXPECTED_RULES, Verdict, judge
from benchmarks.faults.plants import make_fault
from benchmarks.faults.scenarios import FAULTS, HELD_OUT_FAULTS, all_scenarios
from benchmarks.faults.storage import load_run
from ding_normmon.diagnose.rules import RULES

DATA = Path(__file__).parents[1] / 'data' / 'faults'


@pytest.fixture(scope='module')
def verdicts() -> list[Verdict]:
    return [judge(*load_run(path)) for path in sorted(DATA.glob('*/*.npz'))]


def of_part(verdicts: list[Verdict], held_out: bool) -> list[Verdict]:
    return [verdict for verdict in verdicts if verdict.scenario.is_held_out == held_out]


def test_every_scenario_is_recorded() -> None:
    recorded = {path.stem for path in DATA.glob('*/*.npz')}
    assert recorded == {scenario.name for scenario in all_scenarios()}


def test_expectations_are_of_faults_and_rules_that_exist() -> None:
    assert set(EXPECTED_RULES) == set(FAULTS)
    assert set().union(*EXPECTED_RULES.values()) <= {rule.name for rule in RULES}
    assert set(HELD_OUT_FAULTS) <= set(FAULTS)
    assert callable(make_fault)


@pytest.mark.full
@pytest.mark.xdist_group('planted_faults')
class TestGoals:
    def test_nineteen_of_twenty_faults_are_found(self, verdicts: list[Verdict]) -> None:
        faulty = [verdict for verdict in of_part(verdicts, False) if verdict.scenario.fault != 'healthy']
        assert sum(verdict.found is not None and verdict.named for verdict in faulty) >= 0.95 * len(faulty)

    def test_the_median_delay_is_at_most_ten_monitored_steps(self, verdicts: list[Verdict]) -> None:
        delays = [verdict.delay for verdict in verdicts if verdict.delay is not None]
        assert statistics.median(delays) <= 50

    def test_healthy_runs_have_no_error_and_at_most_one_warning(self, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            if verdict.scenario.fault == 'healthy':
                assert (verdict.false_errors, verdict.false_warnings <= 1) == (0, True), verdict.scenario.name

    def test_at_most_one_held_out_single_task_fault_is_missed_or_misnamed(self, verdicts: list[Verdict]) -> None:
        single = [verdict for verdict in of_part(verdicts, True) if verdict.scenario.task is not None]
        missed = [verdict.scenario.name for verdict in single if verdict.found is None or not verdict.named]
        assert len(missed) <= 1, missed
