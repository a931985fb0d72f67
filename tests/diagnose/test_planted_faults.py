"""The rules on every run with a planted fault that is kept with the sources: a sample of `make faults`."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faults.judge import Verdict, judge
from benchmarks.faults.kinds import KINDS
from benchmarks.faults.scenarios import HEALTHY, RULES_WERE_WRITTEN_FOR, draw, healthy, held_out_kinds
from benchmarks.faults.storage import load_run

DATA = Path(__file__).parents[1] / 'data' / 'faults'


@pytest.fixture(scope='module')
def verdicts() -> list[Verdict]:
    return [judge(*load_run(path), 5) for path in sorted(DATA.glob('*.npz'))]


def test_recordings_are_small_and_of_what_exists() -> None:
    paths = sorted(DATA.glob('*.npz'))
    assert sum(path.stat().st_size for path in paths) < 8e6
    for path in paths:
        scenario, run = load_run(path)
        assert scenario.kind in KINDS or scenario.is_healthy
        assert run.series


def test_a_third_of_at_least_thirty_kinds_is_held_out() -> None:
    held_out = held_out_kinds(list(KINDS))
    assert len(KINDS) >= 30
    assert len(held_out) == len(KINDS) // 3
    assert not held_out & set(RULES_WERE_WRITTEN_FOR)
    assert all(kind.__doc__ for kind in KINDS.values())


@pytest.mark.parametrize('kind', KINDS)
def test_scenarios_are_drawn_again_the_same_and_make_sense(kind: str) -> None:
    scenario = draw(kind, 3)
    assert scenario == draw(kind, 3)
    assert scenario.planted is not None
    assert set(scenario.tasks) < set(range(len(scenario.names))) or not scenario.tasks
    low, high = KINDS[kind].strengths
    assert low <= scenario.strength <= high


@pytest.mark.parametrize('variation', HEALTHY)
def test_healthy_runs_have_no_fault(variation: str) -> None:
    assert healthy(variation, 0).is_healthy


@pytest.mark.full
@pytest.mark.xdist_group('planted_faults')
class TestGoals:
    def test_most_known_faults_are_found(self, verdicts: list[Verdict]) -> None:
        held_out = held_out_kinds(list(KINDS))
        known = [v for v in verdicts if not v.scenario.is_healthy and v.scenario.kind not in held_out]
        assert sum(verdict.right is not None for verdict in known) >= 0.83 * len(known)

    def test_hardly_any_finding_names_the_wrong_one(self, verdicts: list[Verdict]) -> None:
        faulty = [verdict for verdict in verdicts if not verdict.scenario.is_healthy]
        assert sum(verdict.is_wrong for verdict in faulty) <= 0.03 * len(faulty)

    def test_healthy_runs_have_no_error(self, verdicts: list[Verdict]) -> None:
        assert [finding for verdict in verdicts for finding in verdict.early if finding.severity == 'error'] == []

    def test_healthy_runs_are_hardly_ever_warned_of(self, verdicts: list[Verdict]) -> None:
        iterations = sum(verdict.healthy_iterations for verdict in verdicts)
        assert sum(len(verdict.early) for verdict in verdicts) <= 0.2 * iterations / 1000
