"""``normmon``: the command line."""

from __future__ import annotations

import sys
from importlib import import_module

__all__ = ['COMMANDS', 'main']

COMMANDS = {
    'inspect': 'Tell what the monitor finds on a policy.',
    'diagnose': 'Tell what went wrong in a run.',
    'report': 'Write a run as one page that opens from disk.',
    'compare': 'Lay runs over each other and tell what changed most.',
    'watch': 'Follow a run in the terminal.',
    'export': 'Write a run as CSV, Parquet or JSON.',
}
"""Every command and its one line; each is ``ding_normmon/cli/{name}.py`` with a click command ``command``."""


def main() -> None:
    """Run the command line; what is missing or wrong is said in one sentence."""
    try:
        import click
    except ImportError:
        sys.exit('normmon needs the package click: pip install "ding_normmon[cli]"')

    class Commands(click.Group):
        def list_commands(self, ctx: click.Context) -> list[str]:
            return list(COMMANDS)

        def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
            if name not in COMMANDS:
                return None
            # Only the command that was typed is imported: the others may need packages that are not installed.
            command: click.Command = import_module(f'ding_normmon.cli.{name}').command
            return command

        def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
            with formatter.section('Commands'):
                formatter.write_dl(list(COMMANDS.items()))

    sys.path.insert(0, '')
    Commands('normmon', help='Curves, findings and reports for multi-task RL.')()
