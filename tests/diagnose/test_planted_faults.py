"""The rules on every run with a planted fault that is kept with the sources: a sample of `make faults`."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faults.judge import Verdict, judge
from benchmarks.faults.kinds import KINDS
from benchmarks.faults.scenarios import (
    HEALTHY,
    LONG_KINDS,
    RULES_WERE_WRITTEN_FOR,
    draw,
    healthy,
    held_out_kinds,
    lengthened,
)
from benchmarks.faults.storage import load_run
from benchmarks.faults.table import LONG

DATA = Path(__file__).parents[1] / 'data' / 'faults'


@pytest.fixture(scope='module')
def verdicts() -> list[Verdict]:
    return [judge(*load_run(path), 5) for path in sorted(DATA.glob('*.npz'))]


def test_recordings_are_small_and_of_what_exists() -> None:
    paths = sorted(DATA.rglob('*.npz'))
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


def test_long_runs_are_of_known_kinds_and_have_as_long_a_fault() -> None:
    assert not held_out_kinds(list(KINDS)) & set(LONG_KINDS)
    long, short = lengthened(draw('rate_swings', 0)), draw('rate_swings', 0)
    assert short.planted is not None
    assert (long.planted, long.iterations) == (5 * short.planted, 5 * short.iterations)


@pytest.mark.full
@pytest.mark.parametrize(('every', 'fewest'), [(5, 14), (10, 11), (20, 11), (50, 9)])
def test_faults_of_long_runs_are_found_at_any_frequency(every: int, fewest: int) -> None:
    verdicts = [judge(*load_run(path), every) for path in sorted((DATA / LONG).glob('*.npz'))]
    faulty = [verdict for verdict in verdicts if not verdict.scenario.is_healthy]
    assert len(faulty) == 14
    assert sum(verdict.right is not None for verdict in faulty) >= fewest
    assert [f for v in verdicts if v.scenario.is_healthy for f in v.early] == []
    assert sum(len(verdict.early) for verdict in verdicts) <= 2


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
