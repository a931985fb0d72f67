"""``normmon serve``."""

from __future__ import annotations

from pathlib import Path

import click

from ding_normmon.cli.command import Command, Refused, missing_package, say

__all__ = ['command']


@click.command('serve', cls=Command)
@click.argument('folder', metavar='RUN|FOLDER', type=click.Path(path_type=Path))
@click.option(
    '--port',
    type=click.IntRange(0, 65_535),
    default=6060,
    show_default=True,
    help='Where it listens; 0: any free port.',
)
def command(folder: Path, port: int) -> None:
    """Show RUN, or every run below FOLDER, as a page that follows them while they train. Ctrl-C ends it.

    Only this machine can open it. With TensorBoard there is no need for it: the tab Normmon shows the same page.
    """
    try:
        import pyarrow  # noqa: F401

        from ding_normmon.runs.live.library import RunLibrary
        from ding_normmon.runs.live.server import HOST, make_page_server
    except ImportError as error:
        raise missing_package(error, 'report') from error
    if not folder.exists():
        raise Refused(f'{folder}: there is no such file or folder')
    if not folder.is_dir() and folder.suffix != '.arrows':
        raise Refused(f'{folder} is neither a folder nor a history file (.arrows)')
    library = RunLibrary({'': folder})
    try:
        server = make_page_server(library, port)
    except OSError as error:
        raise Refused(f'port {port}: {error.strerror}; --port 0 takes any that is free') from error
    number = len(library.runs())
    say(f'{number} run{"s" if number != 1 else ""} below {folder}: http://{HOST}:{server.server_port}/')
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
