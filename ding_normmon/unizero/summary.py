"""What a run ends with: a table of the tasks, one of the findings, where to look next, and the report page."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ding_normmon.core.finding import SEVERITIES, Finding
from ding_normmon.core.install import install_command
from ding_normmon.monitor.findings.stage import DiagnosisStage
from ding_normmon.unizero.middleware.returns import TaskReturns

__all__ = ['event_files', 'findings_table', 'print_report', 'print_summary']

COLOURS = {'info': 'blue', 'warning': 'yellow', 'error': 'red'}
ENDINGS = {
    'finished': 'finished',
    'time': 'stopped by the time limit',
    'interrupted': 'stopped by a signal',
    'finding': 'stopped by a finding',
}


def print_summary(
    tasks: Sequence[TaskReturns],
    iterations: int,
    environment_steps: int,
    seconds: float,
    stop_reason: str,
    folder: Path,
    checkpoint: Path,
    console: Console | None = None,
    diagnosis: DiagnosisStage | None = None,
) -> None:
    """Print the returns of every task and the findings.

    Arguments:
        tasks: the returns of every task, by global task id.
        iterations: learner iterations so far.
        environment_steps: environment steps so far, of all tasks and ranks.
        seconds: wall-clock time of this process.
        stop_reason: ``'finished'``, ``'time'``, ``'interrupted'`` or ``'finding'``.
        folder: the run's folder.
        checkpoint: the newest checkpoint.
        console: where to print; standard output by default.
        diagnosis: has the findings of the run.
    """
    console = console or Console(width=None if sys.stdout.isatty() else 120, soft_wrap=True)
    table = Table(title=f'{ENDINGS.get(stop_reason, "ended")} after {iterations} iterations, {seconds:.0f} s')
    table.add_column('task')
    for heading in ('train return', 'evaluation', 'random policy', 'episodes'):
        table.add_column(heading, justify='right')
    for number, task in enumerate(tasks):
        figures = (task.trained, task.evaluated, task.random)
        table.add_row(f'{number} {task.name}', *map(_show, figures), str(task.episodes))
    console.print(table)
    window = tasks[0].recent.maxlen if tasks else 0
    console.print(f'train return: mean of the last {window} episodes; {environment_steps} environment steps in all')
    if diagnosis is not None:
        _print_findings(diagnosis, stop_reason == 'finding', console)
    for path in event_files(folder):
        console.print(f'event file:   {path}', highlight=False)
    console.print(f'checkpoint:   {checkpoint}', highlight=False)
    console.print(f'to look:      tensorboard --logdir {folder}', highlight=False)


def _print_findings(diagnosis: DiagnosisStage, stopped: bool, console: Console) -> None:
    if not diagnosis.is_on:
        console.print('findings:     switched off (policy.monitor.diagnose)', highlight=False)
        return
    if not diagnosis.findings:
        console.print(f'findings:     none in {diagnosis.judged} records', highlight=False)
        return
    console.print(findings_table(diagnosis.findings, f'findings in {diagnosis.judged} records'))
    cause = diagnosis.asked.get('stop')
    if stopped and cause is not None:
        console.print(f'stopped by:   {cause.rule}: {cause.sentence} {cause.advice}', highlight=False, markup=False)


def findings_table(findings: Iterable[Finding], title: str) -> Table:
    """Return findings as a table, the most severe first, then the oldest."""
    table = Table(title=title, show_lines=True)
    for heading in ('severity', 'rule', 'task', 'since', 'cleared', 'what'):
        table.add_column(heading, overflow='fold')
    for finding in sorted(findings, key=lambda finding: (-SEVERITIES.index(finding.severity), finding.since)):
        tasks = ', '.join(map(str, finding.tasks)) or '-'
        cleared = '-' if finding.cleared is None else str(finding.cleared)
        severity = Text(finding.severity, style=COLOURS[finding.severity])
        table.add_row(severity, finding.rule, tasks, str(finding.since), cleared, Text(finding.sentence))
    return table


def event_files(folder: Path) -> list[Path]:
    """Return the event files of a run, the oldest first."""
    return sorted(folder.rglob('events.out.tfevents.*'), key=lambda path: path.stat().st_mtime)


def _show(value: float | None) -> str:
    return '-' if value is None else f'{value:.2f}'


def print_report(folder: Path) -> None:
    """Write ``report.html`` into a run's folder and print its path, or one sentence on why it could not be written."""
    try:
        from ding_normmon.runs import read_run
        from ding_normmon.runs.report.page import write_page

        path = folder / 'report.html'
        write_page(path, [read_run(folder)])
    except ImportError as error:
        print(f'report:       not written ({error}); to install it: {install_command("report")}', flush=True)
    except Exception as error:
        # A broken page must not turn a finished run into a failed one.
        print(f'report:       not written ({type(error).__name__}: {error})', flush=True)
    else:
        print(f'report:       {path}', flush=True)
