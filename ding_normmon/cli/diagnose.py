"""``normmon diagnose``."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ding_normmon.core.finding import Finding
    from ding_normmon.runs.run import Run

__all__ = ['EXIT_CODES', 'UNREADABLE', 'command']

EXIT_CODES = {'info': 0, 'warning': 1, 'error': 2}
"""What the most severe finding makes the exit code; 0 without any."""

UNREADABLE = 3
"""The exit code where there was nothing to judge: no such run, no such rule, a command line that cannot be."""

_COLOURS = {'info': 'blue', 'warning': 'yellow', 'error': 'red'}


class _Refused(click.ClickException):
    exit_code = UNREADABLE


class _Command(click.Command):
    """A command whose usage errors have an exit code of their own, because click's 2 means errors in the run."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            raise _Refused(error.format_message()) from error


@click.command('diagnose', cls=_Command)
@click.argument('run', metavar='RUN')
@click.option('--format', 'form', type=click.Choice(['text', 'json']), default='text', show_default=True)
@click.option('--rules', 'names', metavar='NAME,NAME', default='', help='Judge by these rules only.')
def command(run: str, form: str, names: str) -> None:
    """Tell what went wrong in RUN, a folder with a history or event files, by today's rules.

    The exit code is 0 if nothing was found, 1 with warnings, 2 with errors (also those that cleared), 3 if RUN cannot
    be read.
    """
    from ding_normmon.core.config import ConfigurationError
    from ding_normmon.diagnose import Diagnosis
    from ding_normmon.runs import RunError, read_run
    from ding_normmon.runs.judge import measured_records

    try:
        found = read_run(run)
        diagnosis = Diagnosis(found.tasks, options=_only(names))
    except (RunError, ConfigurationError, ImportError) as error:
        raise _Refused(str(error)) from error
    records = 0
    for record in measured_records(found):
        diagnosis.observe(record)
        records += 1
    findings = list(diagnosis.findings)
    render = _as_json if form == 'json' else _as_text
    click.echo(render(found, findings, diagnosis.not_judged, records))
    raise SystemExit(max((EXIT_CODES[finding.severity] for finding in findings), default=0))


def _only(names: str) -> dict[str, bool]:
    """Return options that switch off every rule but these.

    Raises:
        ConfigurationError: a rule that does not exist.
    """
    from ding_normmon.core.config import ConfigurationError
    from ding_normmon.diagnose.rules import RULES

    chosen = [name.strip() for name in names.split(',') if name.strip()]
    known = [rule.name for rule in RULES]
    for name in chosen:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ConfigurationError(f'--rules {name}: no such rule; the nearest is {nearest}')
    return {name: False for name in known if name not in chosen} if chosen else {}


def _as_json(run: Run, findings: list[Finding], not_judged: Mapping[str, str], records: int) -> str:
    content = {
        'run': str(run.path),
        'records': records,
        'findings': [asdict(finding) for finding in findings],
        'not_judged': dict(not_judged),
        'warnings': run.warnings,
    }
    return json.dumps(content, indent=2)


def _as_text(run: Run, findings: list[Finding], not_judged: Mapping[str, str], records: int) -> str:
    lines = [f'{run.path}: {records} records, {len(findings)} findings']
    lines += [f'  {warning}' for warning in run.warnings]
    for finding in findings:
        when = f'iteration {finding.found}, since {finding.since}'
        when += '' if finding.cleared is None else f', cleared at {finding.cleared}'
        severity = click.style(finding.severity, fg=_COLOURS[finding.severity], bold=True)
        lines += ['', f'{severity} {finding.rule} ({when})', f'  {finding.sentence}', f'  {finding.advice}']
    if not_judged:
        lines += ['', 'Not judged, because the run has no such metrics:']
        lines += [f'  {name} ({families})' for name, families in not_judged.items()]
    return '\n'.join(lines)
