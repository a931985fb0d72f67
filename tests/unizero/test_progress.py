"""The lines that a training run prints while it goes on: width, time left, returns by task id."""

from __future__ import annotations

import io
import logging
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from ding_normmon.core.finding import Finding
from ding_normmon.unizero.console_log import ConsoleLog
from ding_normmon.unizero.middleware import progress
from ding_normmon.unizero.middleware.progress import Progress
from ding_normmon.unizero.middleware.returns import ReturnTracker
from ding_normmon.unizero.summary import print_findings


def tracker(tasks: int) -> ReturnTracker:
    made = ReturnTracker([f'MiniGrid-LavaGapS5-v0-of-a-long-name-{i}' for i in range(tasks)])
    for number, task in enumerate(made.tasks):
        task.recent.extend([-100.0 - number, -101.0 - number])
    return made


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


def lines(tasks: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **options: Any) -> list[str]:
    clock = Clock()
    monkeypatch.setattr(progress, 'time', clock)
    shown = Progress(tracker(tasks), 100_000, seconds=0.0, **options)
    shown.start(SimpleNamespace(train_iter=50_000))  # type: ignore[arg-type]
    clock.now = 1_000.0
    shown(SimpleNamespace(train_iter=60_000))  # type: ignore[arg-type]
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize('tasks', [1, 4, 26, 64])
def test_every_line_fits_and_has_every_task(
    tasks: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = lines(tasks, monkeypatch, capsys)
    assert max(map(len, printed)) <= 79
    last = '  '.join(printed[[i for i, line in enumerate(printed) if line.startswith('iteration')][-1] :])
    found = re.findall(r'(\d+) (-1\d\d\.\d\d)', last)
    assert found == [(str(number), f'{-100.5 - number:.2f}') for number in range(tasks)]


def test_the_time_left_is_that_of_the_nearer_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # 10,000 iterations took 1,000 s since this start, 40,000 are left.
    assert ' 1:06:40 left' in lines(1, monkeypatch, capsys)[-1]
    assert ' 1:30 left' in lines(1, monkeypatch, capsys, seconds_left=lambda: 90.0)[-1]


def test_a_long_log_line_is_broken_and_its_path_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    error = io.StringIO()
    monkeypatch.setattr(sys, 'stderr', error)
    log = ConsoleLog()
    log.install()
    path = '/a' * 60
    try:
        logging.getLogger('ding_normmon').warning('monitor: %s %s', 'records are lost ' * 12, path)
    finally:
        log.uninstall()
    written = error.getvalue().splitlines()
    assert written[0].startswith('WARNING monitor: records')
    assert [line for line in written if len(line) > 79] == [f'    {path}']
    assert '\x1b' not in error.getvalue()


def test_the_summary_says_an_advice_once() -> None:
    findings = [
        Finding('growth', 'warning', 1, 3, f'Task {i} (a [b]{i}[/b]): odd.', 'Lower the rate.', tasks=(i,))
        for i in (0, 1)
    ]
    console = Console(file=io.StringIO(), width=79)
    print_findings(findings, 9, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count('Lower the rate.') == 1
    assert all(f'Task {i} (a [b]{i}[/b])' in text for i in (0, 1))
