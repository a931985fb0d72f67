"""``normmon``: the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

__all__ = ['COMMANDS', 'main']

COMMANDS = {
    'run': 'Run a script, untouched, with the monitor on its learners.',
    'inspect': 'Tell what the monitor finds on a policy.',
    'diagnose': 'Tell what went wrong in a run.',
    'blackbox': 'Print the last steps of a run that died.',
    'report': 'Write a run as one page that opens from disk.',
    'compare': 'Lay runs over each other and tell what changed most.',
    'watch': 'Follow a run in the terminal.',
    'serve': 'Follow runs in the browser.',
    'export': 'Write a run as CSV, Parquet or JSON.',
    'check': 'Tell whether a history file is whole; write a clean copy.',
}
"""Every command and its one line; each is ``ding_normmon/cli/{name}.py`` with a click command ``command``."""

_HELP = """Curves, findings and reports for multi-task RL.

Exit codes of all commands: 0 fine, 1 warnings or a tolerance left, 2 errors found, 3 nothing to read or wrong use.
"""

_WRONG_USE = 3


def main() -> None:
    """Run the command line; what is missing or wrong is said in one sentence."""
    try:
        import click
    except ImportError:
        from ding_normmon.core.install import install_command

        print(f'normmon needs the package click: {install_command("cli")}', file=sys.stderr)
        sys.exit(_WRONG_USE)
    from ding_normmon import __version__
    from ding_normmon.cli.command import Command, Refused
    from ding_normmon.core.terminal import never_fail

    never_fail()
    try:
        os.getcwd()
    except OSError as error:
        # Libraries below torch end the process here, and not with a code of ours.
        print(f'Error: this folder is gone ({error.strerror}): change to another', file=sys.stderr)
        sys.exit(_WRONG_USE)

    class Commands(Command, click.Group):
        def list_commands(self, ctx: click.Context) -> list[str]:
            return list(COMMANDS)

        def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
            if name not in COMMANDS:
                return None
            # Only the command that was typed is imported: the others may need packages that are not installed.
            command: click.Command = import_module(f'ding_normmon.cli.{name}').command
            return command

        def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, ...]:
            try:
                return super().resolve_command(ctx, args)
            except click.UsageError as error:
                raise Refused(error.format_message()) from error

        def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
            with formatter.section('Commands'):
                formatter.write_dl(list(COMMANDS.items()))

    sys.path.insert(0, '')
    commands = Commands('normmon', help=_HELP)
    click.version_option(__version__, prog_name='normmon')(commands)
    # What is to be run once click has ended.
    programs: list[Callable[[], None]] = []
    try:
        commands(obj=programs)
    except SystemExit as left:
        if left.code or not programs:
            raise
    for program in programs:
        program()
