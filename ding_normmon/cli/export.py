"""``normmon export``."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ['command']


@click.command('export')
@click.argument('run', metavar='RUN')
@click.option('--to', 'form', type=click.Choice(['csv', 'parquet', 'json']), required=True)
@click.option('--output', type=click.Path(path_type=Path), help='By default the name of the run in this folder.')
def command(run: str, form: str, output: Path | None) -> None:
    """Write RUN, a folder with a history or event files, as one file: points in long form, one row each."""
    from ding_normmon.runs import RunError, read_run
    from ding_normmon.runs.exports import WRITERS

    try:
        found = read_run(run)
        path = output or Path(f'{found.name.removesuffix(".arrows")}.{form}')
        WRITERS[form](found, path)
    except (RunError, ImportError, OSError) as error:
        raise click.ClickException(str(error)) from error
    points = sum(len(series.values) for series in found.series.values())
    click.echo(f'{path}: {points} points of {len(found.series)} metrics')
