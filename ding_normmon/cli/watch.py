"""``normmon watch``."""

from __future__ import annotations

import time
from contextlib import nullcontext

import click

from ding_normmon.cli.command import Command, Refused, missing_package
from ding_normmon.core.plain_text import plain

__all__ = ['command']


@click.command('watch', cls=Command)
@click.argument('run', metavar='RUN')
@click.option('--every', type=click.FloatRange(min=0.2), default=3.0, show_default=True, help='Seconds between looks.')
@click.option('--once', is_flag=True, help='Show it once and end.')
def command(run: str, every: float, once: bool) -> None:
    """Follow RUN in the terminal: tasks, shared modules, findings.

    It says when the run is silent or has died, and ends when the run has ended, or at Ctrl-C.
    """
    try:
        from rich.console import RenderableType
        from rich.live import Live
        from rich.text import Text

        from ding_normmon.runs import RunError, read_run
        from ding_normmon.runs.state import state_of
        from ding_normmon.runs.terminal import frame, make_console
    except ImportError as error:
        raise missing_package(error, 'report') from error
    console = make_console()
    state = ''

    def look() -> RenderableType:
        nonlocal state
        state = ''
        try:
            found = read_run(run)
            now = state_of(found)
            state = now.name
            return frame(found, now, console.width)
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
        # On a terminal the picture stays in its place; elsewhere there is one behind the other.
        with Live(console=console, auto_refresh=False, screen=True) if console.is_terminal else nullcontext() as live:
            while state != 'ended':
                begin = time.monotonic()
                shown = look()
                if live is None:
                    console.print(shown)
                else:
                    live.update(shown, refresh=True)
                # A long run takes long to read: it is read for a third of the time at most.
                pause = max(every, 2 * (time.monotonic() - begin))
                time.sleep(0.0 if state == 'ended' else pause)
    except KeyboardInterrupt:
        return
    if console.is_terminal:
        console.print(shown)
