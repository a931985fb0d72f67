"""What a run ends with: a table of the tasks, one of the findings, where to look next, and the report page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ding_normmon.core.finding import Finding
from ding_normmon.core.install import install_command
from ding_normmon.core.terminal import terminal_width, wrapped
from ding_normmon.monitor.findings.stage import DiagnosisStage
from ding_normmon.runs.finding_groups import group_findings
from ding_normmon.runs.terminal import COLOURS, make_console
from ding_normmon.unizero.middleware.returns import TaskReturns

__all__ = ['event_files', 'print_findings', 'print_report', 'print_summary']

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
        diagnosis: has the findings of the run.
    """
    console = make_console()
    table = Table(title=f'{ENDINGS.get(stop_reason, "ended")} after {iterations} iterations, {seconds:.0f} s')
    table.add_column('task', overflow='fold')
    for heading in ('train\nreturn', 'evaluation', 'random\npolicy', 'episodes'):
        table.add_column(heading, justify='right')
    for number, task in enumerate(tasks):
        figures = (task.trained, task.evaluated, task.random)
        table.add_row(f'{number} {task.name}', *map(_show, figures), str(task.episodes))
    console.print(table)
    window = tasks[0].recent.maxlen if tasks else 0
    console.print(f'train return: mean of the last {window} episodes; {environment_steps} environment steps in all')
    if diagnosis is not None:
        _print_findings(diagnosis, stop_reason == 'finding', console)
    places = [('event file:', path) for path in event_files(folder)]
    for what, where in (*places, ('checkpoint:', checkpoint), ('to look:', f'tensorboard --logdir {folder}')):
        console.print(f'{what:<13} {where}', markup=False, soft_wrap=True)


def _print_findings(diagnosis: DiagnosisStage, stopped: bool, console: Console) -> None:
    if not diagnosis.is_on:
        console.print('findings:     switched off (policy.monitor.diagnose)')
        return
    if not diagnosis.findings:
        console.print(f'findings:     none in {diagnosis.judged} judged steps')
        return
    print_findings(diagnosis.findings, diagnosis.judged, console)
    cause = diagnosis.asked.get('stop')
    if stopped and cause is not None:
        console.print(f'stopped by:   {cause.rule}: {cause.sentence} {cause.advice}', markup=False)


def print_findings(findings: Sequence[Finding], steps: int, console: Console) -> None:
    """Print findings by rule, the active ones first, each rule's advice once."""
    active = sum(finding.is_active for finding in findings)
    console.print(f'findings:     {len(findings)} in {steps} judged steps, {active or "none"} active')
    for group in group_findings(findings):
        console.print(Text.assemble((group.severity, COLOURS[group.severity]), f' {group.rule}'))
        for line in group.lines(console.width):
            console.print(line, markup=False)


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
        _say(f'not written ({error}); to install it: {install_command("report")}')
    except Exception as error:
        # A broken page must not turn a finished run into a failed one.
        _say(f'not written ({type(error).__name__}: {error})')
    else:
        # A path is not wrapped: it is copied.
        print(f'report:       {path}', flush=True)


def _say(text: str) -> None:
    print(wrapped(f'report:       {text}', terminal_width(), hang='    '), flush=True)
