"""What was found while a run trained is told again; it is judged anew only where that says something new."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from ding_normmon.core.finding import Finding
from ding_normmon.core.record import Record
from ding_normmon.diagnose import Diagnosis
from ding_normmon.runs import Run, Series, judge, read_run
from ding_normmon.runs.history_file import FILE_NAME
from ding_normmon.runs.judge import non_finite_curves
from ding_normmon.runs.report.tolerance import Tolerance
from tests.runs.histories import write


def judged(iteration: int, **scalars: float) -> Record:
    return Record(iteration, {'monitor/cost/ms': 1.0, 'monitor/cost/ms_diagnosis': 0.1, **scalars})


@pytest.fixture
def no_judging(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError('it was judged already')

    monkeypatch.setattr(Diagnosis, 'observe', fail)


@pytest.mark.usefixtures('no_judging')
def test_judged_and_nothing_found_is_not_judged_again(tmp_path: Path) -> None:
    write(tmp_path / FILE_NAME, [judged(number) for number in range(5)])
    found = judge.judge(read_run(tmp_path))
    assert (found.findings, found.judged, found.records, found.is_of_training) == ([], 5, 5, True)
    with pytest.raises(AssertionError, match='judged already'):
        judge.judge(read_run(tmp_path), again=True)
    with pytest.raises(AssertionError, match='judged already'):
        judge.judge(read_run(tmp_path), {'non_finite': False})


def test_newer_rules_judge_again_and_keep_what_rules_of_the_user_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Finding('mine', 'warning', 0, 0, 'Odd.', 'Wait.')
    record = judged(0)
    write(tmp_path / FILE_NAME, [Record(0, record.scalars, findings=(mine,)), judged(1)])
    assert judge.judge(read_run(tmp_path)).is_of_training
    monkeypatch.setattr(judge, 'rules_of_today', lambda: 'newer')
    again = judge.judge(read_run(tmp_path))
    assert not again.is_of_training
    assert again.findings == [mine]


def test_a_run_that_nobody_judged_is_judged_now(tmp_path: Path) -> None:
    record = Record(0, {'monitor/nonfinite/grad/head_value_task0': 3.0, 'grad/model/_total_norm': 1.0})
    write(tmp_path / FILE_NAME, [record])
    assert [finding.rule for finding in judge.judge(read_run(tmp_path)).findings] == ['non_finite']


def curve(*values: float) -> Series:
    return Series(np.arange(len(values)), np.array(values), np.arange(len(values), dtype=float))


def test_curves_of_other_programs_that_become_nan_are_found() -> None:
    run = Run(Path('x'), {
        'loss': curve(1, 2, math.nan, math.nan),
        'accuracy': curve(1, 1, math.inf, 1),
        'fine': curve(1, 2, 3, 4),
        'loss_task1/mean': curve(1, 2, 3, -math.inf),
    }, tasks={1: 'Pong'})  # fmt: skip
    first, second = non_finite_curves(run)
    assert (first.since, first.cleared, set(first.evidence)) == (2, None, {'loss', 'accuracy'})
    assert (second.since, second.tasks, second.task_names) == (3, (1,), ('Pong',))
    assert 'Task 1 (Pong)' in second.sentence
    assert non_finite_curves(run, [first]) == [second]


@pytest.mark.parametrize(
    ('values', 'fails'),
    [
        ([1.0] * 22 + [math.nan] * 8, True),
        ([1.0] * 29 + [math.nan], True),
        ([1.0] * 29 + [math.inf], True),
        ([1.0] * 21 + [math.nan] * 8 + [1.0], True),
        ([1.0] * 28 + [math.nan, 1.0], False),
        ([math.nan] * 10 + [1.0] * 20, False),
        ([math.nan] * 30, True),
        ([1.0] * 30, False),
    ],
)
@pytest.mark.parametrize('expression', ['loss > 1.5x', 'loss > 5', 'loss < 0.5x'])
def test_a_metric_that_is_not_finite_at_its_end_fails_whatever_the_limit(
    values: list[float], fails: bool, expression: str
) -> None:
    good, candidate = Run(Path('a'), {'loss': curve(*[1.0] * 30)}), Run(Path('b'), {'loss': curve(*values)})
    assert bool(Tolerance.read(expression).failures([good, candidate])) == fails
    if 'x' in expression and not math.isfinite(values[-1]):
        assert Tolerance.read(expression).failures([candidate, good])


def test_a_metric_that_is_no_longer_measured_fails() -> None:
    full, short = curve(*[1.0] * 30), curve(*[1.0] * 12)
    good, candidate = Run(Path('a'), {'loss': full, 'other': full}), Run(Path('b'), {'loss': short, 'other': full})
    assert Tolerance.read('loss > 5').failures([good, good]) == []
    assert 'not there at the end' in Tolerance.read('loss > 5').failures([good, candidate])[0]
    # Returns over environment steps end elsewhere, and are measured rarely.
    returns = Series(np.array([0, 5000, 9000]), np.ones(3), np.array([0.0, 14.0, 27.0]))
    run = Run(Path('d'), {'loss': full, 'return': returns})
    assert Tolerance.read('loss > 5').failures([run, run]) == []
    assert Tolerance.read('return > 5').failures([run, run]) == []


@pytest.mark.parametrize(('is_ended', 'found'), [(True, ['gradient_jump']), (False, ['gradient_jump']), (None, [])])
def test_only_without_a_history_may_a_value_have_been_written_again(is_ended: bool | None, found: list[str]) -> None:
    values = np.repeat([1.0, 1.2, 0.9, 1.1, 1.0, 0.8, 1.1, 0.9, 300.0], 8)
    iterations = np.arange(len(values)) * 10
    series = {'grad/encoder/_total_norm': Series(iterations, values, np.zeros(len(values)))}
    findings = judge.diagnose(Run(Path('run'), series, is_ended=is_ended), options={'spike': False})
    assert [finding.rule for finding in findings] == found


def test_records_are_those_of_the_monitor_however_often_others_wrote(tmp_path: Path) -> None:
    write(tmp_path / FILE_NAME, [judged(number) for number in range(0, 50, 10)])
    run = read_run(tmp_path)
    at = np.arange(50)
    run.series['train/loss'] = Series(at, np.ones(50), at * 1.0)
    told, again = judge.judge(run), judge.judge(run, again=True)
    assert (told.records, told.judged) == (again.records, again.judged) == (5, 5)
