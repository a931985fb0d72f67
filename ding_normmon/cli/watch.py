"""``normmon watch``."""

from __future__ import annotations

import time

import click

from ding_normmon.cli.command import Command, Refused, missing_package
from ding_normmon.core.plain_text import plain

__all__ = ['command']


@click.command('watch', cls=Command)
@click.argument('run', metavar='RUN')
@click.option('--every', type=click.FloatRange(min=0.2), default=3.0, show_default=True, help='Seconds between looks.')
@click.option('--once', is_flag=True, help='Show it once and end.')
def command(run: str, every: float, once: bool) -> None:
    """Follow RUN in the terminal: tasks, shared modules, findings. Ctrl-C ends it."""
    try:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        from ding_normmon.runs import RunError, read_run
        from ding_normmon.runs.report.live import frame
    except ImportError as error:
        raise missing_package(error, 'report') from error
    console = Console()

    def look() -> object:
        try:
            return frame(read_run(run))
        except RunError as error:
            if once:
                raise Refused(str(error)) from error
            return Text(plain(f'waiting: {error}'))
        except ImportError as error:
            raise Refused(str(error)) from error

    if once:
        console.print(look())
        return
    try:
        with Live(look(), console=console, auto_refresh=False, screen=console.is_terminal) as live:  # type: ignore[arg-type]
            while True:
                begin = time.monotonic()
                live.update(look(), refresh=True)  # type: ignore[arg-type]
                # A long run takes long to read: it is read for a third of the time at most.
                time.sleep(max(every, 2 * (time.monotonic() - begin)))
    except KeyboardInterrupt:
        return
