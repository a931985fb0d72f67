"""``normmon export``."""

from __future__ import annotations

from pathlib import Path

import click

from ding_normmon.cli.command import Command, missing_package, say, write_file

__all__ = ['command']


@click.command('export', cls=Command)
@click.argument('run', metavar='RUN')
@click.option('--to', 'form', type=click.Choice(['csv', 'parquet', 'json']), required=True)
@click.option('--output', type=click.Path(path_type=Path), help='By default the name of the run in this folder.')
def command(run: str, form: str, output: Path | None) -> None:
    """Write RUN, a folder with a history or event files, as one file: points in long form, one row each."""
    from ding_normmon.runs import read_run
    from ding_normmon.runs.exports import WRITERS

    try:
        found = read_run(run)
        path = output or Path(f'{found.name.removesuffix(".arrows")}.{form}')
        write_file(path, lambda unfinished: WRITERS[form](found, unfinished))
    except ImportError as error:
        raise missing_package(error, 'report') from error
    for warning in found.warnings:
        say(warning, err=True)
    points = sum(len(series.values) for series in found.series.values())
    say(f'{path}: {points} points of {len(found.series)} metrics')
