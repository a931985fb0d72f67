"""``normmon check``."""

from __future__ import annotations

from pathlib import Path

import click

from ding_normmon.cli.command import Command, Exit, Refused, missing_package, say

__all__ = ['command']


@click.command('check', cls=Command)
@click.argument('run', metavar='RUN', type=click.Path(path_type=Path))
@click.option(
    '--repair', 'is_repaired', is_flag=True, help='Write a clean copy of what is whole beside each history file.'
)
def command(run: Path, is_repaired: bool) -> None:
    """Tell whether the files of RUN are whole: starts and branches, gaps, damage, and what the monitor lost.

    The exit code is 0 if all is whole, 1 with a record torn at the end or with losses that the monitor counted, 2 with
    damage, 3 if there is nothing to check. Nothing in RUN is changed; --repair writes history-repaired.arrows.
    """
    try:
        from ding_normmon.runs import RunError
        from ding_normmon.runs.check import check_run, repair
    except ImportError as error:
        raise missing_package(error, 'report') from error
    code = Exit.FINE
    for checked in check_run(run):
        say(f'{checked.path}: {"damaged" if checked.errors else "whole"}')
        for sentence in checked.facts:
            say(f'  {sentence}')
        for sentence in checked.warnings:
            say(f'  warning: {sentence}')
        for sentence in checked.errors:
            say(f'  error: {sentence}')
        code = max(code, Exit.ERRORS if checked.errors else Exit.WARNINGS if checked.warnings else Exit.FINE)
        if is_repaired and checked.path.suffix == '.arrows':
            try:
                copy, records = repair(checked.path)
                say(f'  {records} records written to {copy}')
            except RunError as error:
                say(f'  {error}')
            except FileExistsError as error:
                raise Refused(f'{error.filename} is there already; move it away first') from error
    raise SystemExit(code)
