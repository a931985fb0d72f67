"""Runs that something was wrong with: each has a correct page."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.sample_runs import sample_run
from ding_normmon.core.record import Record
from ding_normmon.runs import MatrixSeries, Run, Series, read_run
from ding_normmon.runs.history_file import HistoryFile
from ding_normmon.runs.judge import diagnose
from ding_normmon.runs.report.changes import find_changes
from ding_normmon.runs.report.page import render_page
from ding_normmon.runs.state import RunState
from ding_normmon.runs.terminal import frame


def shown(run: Run) -> str:
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(frame(run, RunState('running'), 120))
    return console.export_text()


def test_a_clock_that_jumps_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1000.0, 2000.0, 500.0, 501.0])
    monkeypatch.setattr('time.time', lambda: next(clock))
    file = HistoryFile(tmp_path / 'history.arrows')
    for iteration in range(0, 40, 10):
        file.publish(Record(iteration, {'grad/model/_total_norm': 1.0 + iteration}))
    file.close()
    monkeypatch.undo()
    run = read_run(tmp_path)
    series = run.series['grad/model/_total_norm']
    assert series.iterations.tolist() == [0, 10, 20, 30]
    assert series.times.tolist() == [1000.0, 2000.0, 500.0, 501.0]
    assert 'iteration 30' in shown(run)
    assert render_page([run])


def test_records_in_which_a_rank_was_missing() -> None:
    run = sample_run()
    gaps = {name: Series(s.iterations[::3], s.values[::3], s.times[::3]) for name, s in run.series.items()}
    missing = np.zeros(len(run.series['monitor/cost/ms'].iterations))
    missing[::3] = 1.0
    cost = run.series['monitor/cost/ms']
    gaps['monitor/missing_ranks'] = Series(cost.iterations, missing, cost.times)
    broken = dataclasses.replace(run, series=gaps)
    assert render_page([broken])
    assert 'losing_points' not in {finding.rule for finding in diagnose(run)}


def test_runs_of_different_tasks_beside_each_other() -> None:
    runs = [sample_run(tasks=2, path='two'), sample_run(tasks=5, path='five')]
    assert render_page(runs, changes=find_changes(runs))


def test_nothing_but_nan() -> None:
    series = Series(np.arange(5) * 10, np.full(5, np.nan), np.zeros(5))
    stack = MatrixSeries(np.arange(2), np.full((2, 2, 2), np.nan), (0, 1), (0, 1))
    run = Run(Path('x'), {'grad/model/_total_norm': series}, {'conflict/encoder/cosine': stack}, {0: 'a', 1: 'b'})
    assert render_page([run])
    assert shown(run)
    assert find_changes([run, run]) == []


@pytest.mark.slow
@pytest.mark.full
def test_ten_million_points(tmp_path: Path) -> None:
    names = [f'norm/group{number}/_total_norm' for number in range(500)]
    file = HistoryFile(tmp_path / 'history.arrows')
    for iteration in range(20_000):
        file.publish(Record(iteration, dict.fromkeys(names, float(iteration))))
    file.close()
    run = read_run(tmp_path)
    assert sum(len(series.values) for series in run.series.values()) == 10_000_000
    page = render_page([run])
    assert len(page) < 12 * 2**20
