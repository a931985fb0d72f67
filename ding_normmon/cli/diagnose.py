"""``normmon diagnose``."""

from __future__ import annotations

import difflib
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from ding_normmon.cli.command import Command, Refused, exit_code_of, say, write
from ding_normmon.core.plain_text import plain
from ding_normmon.core.terminal import terminal_width, wrapped

if TYPE_CHECKING:
    from ding_normmon.core.incident import Incident
    from ding_normmon.runs.judge import Judgement
    from ding_normmon.runs.run import Run

__all__ = ['command']

_COLOURS = {'info': 'blue', 'warning': 'yellow', 'error': 'red'}


@click.command('diagnose', cls=Command)
@click.argument('run', metavar='RUN')
@click.option('--format', 'form', type=click.Choice(['text', 'json']), default='text', show_default=True)
@click.option('--rules', 'names', metavar='NAME,NAME', default='', help='Judge by these rules only.')
@click.option('--again', is_flag=True, help='Judge every record now, whatever was found while the run trained.')
def command(run: str, form: str, names: str, again: bool) -> None:
    """Tell what went wrong in RUN, a folder with a history or event files.

    What was found while the run trained is told; where nothing was judged then, or by other rules than today's, it is
    judged now. The exit code is 0 if nothing was found, 1 with warnings, 2 with errors (also those that cleared), 3 if
    RUN cannot be read or the monitor wrote nothing there. What came first is told of every incident; an exception or
    the death of the run counts as an error.
    """
    from ding_normmon.core.config import ConfigurationError
    from ding_normmon.runs import RunError, read_run
    from ding_normmon.runs.judge import judge, nothing_measured

    try:
        found = read_run(run)
        judgement = judge(found, _only(names), again, _Progress())
    except (RunError, ConfigurationError, ImportError) as error:
        raise Refused(str(error)) from error
    if (nothing := nothing_measured(found)) is not None:
        raise Refused(nothing)
    if form == 'json':
        write(_as_json(found, judgement))
    else:
        _print(found, judgement)
    ended = ['error' for incident in found.incidents if incident.kind in ('exception', 'death')]
    severities = [*(finding.severity for finding in judgement.findings), *ended]
    raise SystemExit(exit_code_of(severities))


class _Progress:
    """Tells on a terminal's error stream how far a long judgement has come."""

    def __init__(self) -> None:
        self._begun = self._told = time.monotonic()

    def __call__(self, judged: int, total: int) -> None:
        now = time.monotonic()
        if now - self._begun > 2 and now - self._told > 0.5:
            self._told = now
            write(f'\rjudged {judged:,} of about {total:,} records', err=True, nl=judged + 1000 > total)


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


def _as_json(run: Run, judgement: Judgement) -> str:
    from ding_normmon.runs.strict_json import dumps

    content = {
        'run': str(run.path),
        'records': judgement.records,
        'judged': judgement.judged,
        'judged_while_training': judgement.is_of_training,
        'findings': [asdict(finding) for finding in judgement.findings],
        'incidents': [_as_plain(incident) for incident in run.incidents],
        'not_judged': judgement.not_judged,
        'warnings': run.warnings,
    }
    return dumps(content, indent=2)


def _as_plain(incident: Incident) -> dict[str, Any]:
    from ding_normmon.core.incident import DenseWindow

    plain = asdict(replace(incident, window=DenseWindow()))
    del plain['window']
    return {**plain, 'steps': len(incident.window.iterations)}


def _print(run: Run, judgement: Judgement) -> None:
    from ding_normmon.core.incident import tell_incident
    from ding_normmon.runs.finding_groups import group_findings

    width = terminal_width()
    findings = judgement.findings
    active = sum(finding.is_active for finding in findings)
    say(f'{run.path}: {judgement.records} records, {len(findings)} findings, {active} active')
    notes = list(run.warnings)
    if judgement.is_of_training:
        notes.insert(0, f'judged while it trained, {judgement.judged} of the records; --again judges all of them now')
    if run.incidents:
        notes.append(f'{len(run.incidents)} incidents, told below: what came first')
    for note in notes:
        say(wrapped(plain(note), width, '  ', '    '))
    for group in group_findings(findings):
        say(f'\n{group.severity}', nl=False, fg=_COLOURS[group.severity], bold=True)
        number = len(group.findings)
        still = sum(finding.is_active for finding in group.findings)
        say(f' {group.rule}: {number} finding{"s" if number > 1 else ""}, {still or "none"} active')
        for line in group.lines(width):
            say(line)
    for incident in run.incidents:
        say('')
        for line in tell_incident(incident):
            say(wrapped(line, width, hang='    '))
    if judgement.not_judged:
        say('\nNot judged, because the run has no such metrics:')
        for name, families in judgement.not_judged.items():
            say(wrapped(f'{name} ({families})', width, '  ', '    '))
