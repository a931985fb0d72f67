"""What commands print: width, colours, characters, groups of findings, and whether a run goes on."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ding_normmon.cli import main as command_line
from ding_normmon.core.destination import RunDescription
from ding_normmon.core.finding import Finding
from ding_normmon.core.record import Record
from ding_normmon.runs.history_file import HistoryFile

ADVICE = 'Lower the learning rate of this head, or its weight decay, and look at its gradients before clipping again.'


def write(folder: Path, close: bool = True) -> HistoryFile:
    """Write a run in which one rule found something in three tasks; in one of them it came and went four times."""
    file = HistoryFile(folder / 'history.arrows')
    file.begin(RunDescription({0: 'Pong', 1: 'Qbert', 2: 'Montezuma’s Revenge'}))
    names = {f'grad/head_value_task{task}/_total_norm': 1.0 for task in range(3)}

    def finding(task: int, since: int, cleared: int | None = None, rule: str = 'mine') -> Finding:
        name = ('Pong', 'Qbert', 'Montezuma’s Revenge')[task]
        sentence = f'Task {task} ({name}): the value head grows much faster than the heads of all other tasks do.'
        return Finding(rule, 'warning', since, since + 5, sentence, ADVICE, (task,), (name,), 'head_value', {}, cleared)

    for iteration in range(0, 200, 5):
        findings = []
        if iteration in (50, 100, 150, 190):
            findings.append(finding(0, iteration - 5, iteration))
        if iteration == 100:
            findings += [finding(1, 80), finding(2, 85), finding(2, 20, 60, 'another')]
        file.publish(Record(iteration, {'grad/model/_total_norm': 1.0 + iteration, **names}, findings=tuple(findings)))
    if close:
        file.close()
    return file


def run(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, '-m', 'ding_normmon', *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert 'Traceback' not in done.stderr, done.stderr
    return done.stdout


def on_terminal(columns: int, *arguments: str, **environment: str) -> str:
    """Return what a command writes to a terminal of some width."""
    parent, child = pty.openpty()
    variables = {**os.environ, 'COLUMNS': str(columns), 'TERM': 'xterm-256color', **environment}
    process = subprocess.Popen(
        [sys.executable, '-m', 'ding_normmon', *arguments], env=variables, stdout=child, stderr=child
    )
    os.close(child)
    shown = b''
    while True:
        try:
            part = os.read(parent, 65_536)
        except OSError:
            break
        if not part:
            break
        shown += part
    process.wait(60)
    os.close(parent)
    return shown.decode()


def test_findings_are_grouped_active_first_and_advice_stands_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path)
    monkeypatch.delenv('COLUMNS', raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['normmon', 'diagnose', '.'])
    monkeypatch.setattr(sys, 'path', list(sys.path))
    with pytest.raises(SystemExit):
        command_line.main()
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 79
    joined = ' '.join(text.split())
    assert joined.count(ADVICE) == 2
    assert joined.index('warning mine: 6 findings, 2 active') < joined.index('warning another: 1 finding, none active')
    order = [joined.index(f'Task {task} (') for task in (1, 2, 0)]
    assert order == sorted(order)
    assert '3 times before, first at 45' in joined


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize('command', ['diagnose', 'watch'])
def test_colours_and_characters_are_those_of_the_terminal(command: str, tmp_path: Path) -> None:
    write(tmp_path)
    arguments = [command, str(tmp_path), *(['--once'] if command == 'watch' else [])]
    coloured = on_terminal(100, *arguments)
    assert '\x1b[' in coloured, coloured
    assert '\x1b[' not in on_terminal(100, *arguments, NO_COLOR='1')
    assert '\x1b[' not in run(*arguments)
    ascii_only = run(*arguments, PYTHONIOENCODING='ascii')
    assert ascii_only.isascii()
    assert "Montezuma's Revenge" in ascii_only
    for columns in (60, 79):
        widest = max(map(len, re.sub(r'\x1b\[[\d;?]*[a-zA-Z]', '', on_terminal(columns, *arguments)).split('\r\n')))
        assert widest <= max(columns, len(f'{tmp_path}: 40 records, 7 findings, 2 active'))


@pytest.mark.slow
@pytest.mark.full
def test_watch_stops_when_the_run_has_ended(tmp_path: Path) -> None:
    file = write(tmp_path, close=False)
    process = subprocess.Popen(
        [sys.executable, '-m', 'ding_normmon', 'watch', str(tmp_path), '--every', '0.3'],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if 'iteration 195' in line:
            assert 'ended' not in line
            break
    time.sleep(0.5)
    assert process.poll() is None
    file.close()
    rest = process.stdout.read()
    assert process.wait(60) == 0
    assert 'ended' in rest
