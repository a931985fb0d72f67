"""``normmon report``."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ['command']


@click.command('report')
@click.argument('run', metavar='RUN')
@click.option('--output', type=click.Path(path_type=Path), help='By default report.html in the folder of RUN.')
@click.option('--language', type=click.Choice(['en', 'zh']), default='en', show_default=True)
def command(run: str, output: Path | None, language: str) -> None:
    """Write RUN, a folder with a history or event files, as one page that opens from disk."""
    from ding_normmon.runs import RunError, read_run

    try:
        found = read_run(run)
        from ding_normmon.runs.report.page import write_page

        folder = Path(run) if Path(run).is_dir() else Path(run).parent
        path = output or folder / 'report.html'
        write_page(path, [found], language)
    except (RunError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except ImportError as error:
        raise click.ClickException(f'{error}: pip install "ding_normmon[report]"') from error
    for warning in found.warnings:
        click.echo(warning, err=True)
    click.echo(str(path))
