"""``normmon report``."""

from __future__ import annotations

from pathlib import Path

import click

from ding_normmon.cli.command import Command, Exit, missing_package, say, write_file

__all__ = ['command']


@click.command('report', cls=Command)
@click.argument('run', metavar='RUN')
@click.option('--output', type=click.Path(path_type=Path), help='By default report.html in the folder of RUN.')
@click.option('--language', type=click.Choice(['en', 'zh']), default='en', show_default=True)
@click.option('--again', is_flag=True, help='Judge every record now, whatever was found while the run trained.')
def command(run: str, output: Path | None, language: str, again: bool) -> None:
    """Write RUN, a folder with a history or event files, as one page that opens from disk.

    Where the monitor wrote nothing, the page has what others wrote, and the exit code is 3.
    """
    from ding_normmon.runs import read_run
    from ding_normmon.runs.judge import nothing_measured

    try:
        found = read_run(run)
        if (nothing := nothing_measured(found)) is not None:
            say(nothing, err=True)
        from ding_normmon.runs.report.page import write_page

        folder = Path(run) if Path(run).is_dir() else Path(run).parent
        path = output or folder / 'report.html'
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, lambda unfinished: write_page(unfinished, [found], language, again=again))
    except ImportError as error:
        raise missing_package(error, 'report') from error
    for warning in found.warnings:
        say(warning, err=True)
    say(str(path))
    if nothing is not None:
        raise SystemExit(Exit.UNREADABLE)
