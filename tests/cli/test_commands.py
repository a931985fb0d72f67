"""``normmon report``, ``compare`` and ``watch``: what they print, and how they end."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboardX import SummaryWriter

from benchmarks.sample_runs import sample_run
from ding_normmon.cli import main as command_line
from ding_normmon.core.destination import RunDescription
from ding_normmon.core.record import Record
from ding_normmon.runs import Series
from ding_normmon.runs.history_file import HistoryFile
from ding_normmon.runs.report.changes import find_changes, last_level
from ding_normmon.runs.report.tolerance import Tolerance, ToleranceError
from tests.sampling import sampled


def write_run(folder: Path, factor: float = 1.0, seed: int = 0) -> Path:
    chance = np.random.default_rng(seed)
    file = HistoryFile(folder / 'history.arrows')
    file.begin(RunDescription({0: '[bold]Pong[/bold]', 1: 'Qbert'}))
    for iteration in range(0, 600, 10):
        noise = float(np.exp(0.1 * chance.normal()))
        scalars = {'grad/encoder/_total_norm': factor * noise, 'norm/encoder/_total_norm': 5.0 + iteration / 1000}
        scalars.update({f'noreduce_value_loss_task{task}': 0.5 * noise for task in (0, 1)})
        file.publish(Record(iteration, scalars))
    file.close()
    return folder


@pytest.mark.parametrize('command', sampled(['diagnose', 'report', 'watch'], every=3))
@pytest.mark.filterwarnings('error::RuntimeWarning')
def test_values_close_to_infinity(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = np.random.default_rng(4)
    file = HistoryFile(tmp_path / 'history.arrows')
    file.begin(RunDescription({0: 'Pong', 1: 'Qbert'}))
    names = ['grad/head_value_task0/_total_norm', 'noreduce_value_loss_task0', 'noreduce_value_loss_task1']
    names += ['loss/backward', 'data/reward_task1/max', 'data/value_target_task1/mean', 'learning_rate/model']
    for record in range(160):
        size = 1.7e308 if 60 < record < 110 else 1e-308 if record > 140 else 1.0
        signs = chance.choice([-1, 1] if record % 3 else [1], len(names))
        values = size * signs * chance.uniform(0.5, 1, len(names))
        file.publish(Record(10 * record, dict(zip(names, values, strict=True))))
    file.close()
    _, said = normmon(monkeypatch, capsys, command, str(tmp_path))
    assert 'Pong' in said or command == 'report'
    assert 'switched off' not in said


def normmon(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int | str | None, str]:
    monkeypatch.setattr(sys, 'argv', ['normmon', *arguments])
    monkeypatch.setattr(sys, 'path', list(sys.path))
    with pytest.raises(SystemExit) as left:
        command_line.main()
    captured = capsys.readouterr()
    return left.value.code, captured.out + captured.err


def test_a_report_is_written_into_the_folder_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / 'run')
    code, text = normmon(monkeypatch, capsys, 'report', str(folder), '--language', 'zh')
    assert not code, text
    assert (folder / 'report.html').read_text(encoding='utf-8').startswith('<!doctype html>\n<html lang="zh">')


@pytest.mark.parametrize('command', ['report', 'diagnose', 'watch'])
def test_a_folder_that_is_no_run_is_a_sentence(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [command, str(tmp_path), *(['--once'] if command == 'watch' else [])]
    code, text = normmon(monkeypatch, capsys, *arguments)
    assert code == 3
    assert 'it is no run' in text
    assert 'Traceback' not in text


@pytest.mark.parametrize('command', ['report', 'diagnose'])
def test_a_run_without_our_records_says_so_first_and_is_no_success(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(11):
            writer.add_scalar('learner_iter/cur_lr_avg', 0.1, step)
            writer.add_scalar('evaluator_iter/reward_mean', float(step), step)
    code, text = normmon(monkeypatch, capsys, command, str(tmp_path))
    assert code == 3
    assert 'the monitor wrote nothing here, only others did (2 curves)' in text
    assert (tmp_path / 'report.html').exists() == (command == 'report')


@pytest.mark.slow
def test_a_comparison_says_what_changed_and_fails_where_it_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = str(write_run(tmp_path / 'a')), str(write_run(tmp_path / 'b', factor=2.0, seed=1))
    output = ['--output', str(tmp_path / 'compare.html')]
    code, text = normmon(monkeypatch, capsys, 'compare', first, second, *output)
    assert not code
    assert text.splitlines()[0].startswith('grad/encoder/_total_norm: ')
    for expression, expected in (
        ('grad/encoder/_total_norm > 1.5x', 1),
        ('grad/encoder/_total_norm > 3x', 0),
        ('grad/* < 0.5', 0),
        ('norm/encoder/_total_norm >= 5', 1),
        ('grad/decoder/* > 1', 1),
        ('grad/encoder/_total_norm is large', 3),
    ):
        code, text = normmon(monkeypatch, capsys, 'compare', first, second, *output, '--fail-if', expression)
        assert (code or 0) == expected, (expression, text)
        assert 'Traceback' not in text
    assert normmon(monkeypatch, capsys, 'compare', first)[0] == 3


def test_watch_shows_tasks_whatever_they_are_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv('COLUMNS', '140')
    code, text = normmon(monkeypatch, capsys, 'watch', str(write_run(tmp_path / 'run')), '--once')
    assert not code
    assert '[bold]Pong[/bold]' in text
    assert 'iteration 590' in text


def test_levels_are_medians_of_the_last_third() -> None:
    values = np.concatenate([np.full(20, 100.0), [1.0, 2.0, 3.0, 4.0, 5.0, np.nan, np.inf, 3.0, 2.0, 4.0]])
    middle, spread = last_level(Series(np.arange(30), values, np.zeros(30)))
    assert middle == 3.0
    assert spread == pytest.approx(1.4826)


def test_runs_that_are_the_same_have_not_changed() -> None:
    assert all(change.size == 0 for change in find_changes([sample_run(), sample_run()]))


@pytest.mark.parametrize('text', ['', 'a', 'a >', 'a > b', 'a > 1y', '> 1'])
def test_an_expression_that_cannot_be_read_is_a_sentence(text: str) -> None:
    with pytest.raises(ToleranceError, match='such as'):
        Tolerance.read(text)
