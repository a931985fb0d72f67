"""``normmon compare``."""

from __future__ import annotations

from pathlib import Path

import click

from ding_normmon.cli.command import Command, Exit, Refused, missing_package, say, write_file

__all__ = ['command']


@click.command('compare', cls=Command)
@click.argument('runs', metavar='A B [C...]', nargs=-1, required=True)
@click.option('--output', type=click.Path(path_type=Path), default=Path('compare.html'), show_default=True)
@click.option('--language', type=click.Choice(['en', 'zh']), default='en', show_default=True)
@click.option('--fail-if', 'expressions', metavar='EXPRESSION', multiple=True, help="'grad/encoder/_total_norm > 1.5x'")
def command(runs: tuple[str, ...], output: Path, language: str, expressions: tuple[str, ...]) -> None:
    """Lay runs over each other on one page, and tell what changed most against A.

    The level of a metric is the median of its last third. With --fail-if, as often as wanted, the exit code is 1 where
    a metric of B, C, ... fulfils the expression, is NaN or infinite at its end, or is not there: an x behind the number
    means times the level in A.
    """
    from ding_normmon.runs import RunError, read_run
    from ding_normmon.runs.report.changes import find_changes
    from ding_normmon.runs.report.tolerance import Tolerance, ToleranceError

    if len(runs) < 2:
        raise Refused('compare needs two runs or more')
    try:
        tolerances = [Tolerance.read(text) for text in expressions]
        found = [read_run(run) for run in runs]
        from ding_normmon.runs.report.page import write_page

        changes = find_changes(found)
        write_file(output, lambda path: write_page(path, found, language, changes))
    except (RunError, ToleranceError) as error:
        raise Refused(str(error)) from error
    except ImportError as error:
        raise missing_package(error, 'report') from error
    names = {frozenset(run.tasks.values()) for run in found}
    if len(names) > 1:
        say('The runs have different tasks; curves of tasks are matched by id.', err=True)
    for change in changes[:10]:
        say(f'{change.metric}: {" -> ".join(change.levels)} ({change.ratio}, {change.spreads} spreads)')
    say(str(output))
    failures = [failure for tolerance in tolerances for failure in tolerance.failures(found)]
    for failure in failures:
        say(failure, err=True)
    if failures:
        raise SystemExit(Exit.WARNINGS)
