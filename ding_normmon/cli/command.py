"""What all commands have in common: how they end, and how they write to the terminal."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable
from enum import IntEnum
from pathlib import Path
from typing import IO, Any

import click

from ding_normmon.core.install import install_command
from ding_normmon.core.plain_text import plain
from ding_normmon.core.terminal import drop_output, has_colours

__all__ = ['Command', 'Exit', 'Refused', 'exit_code_of', 'missing_package', 'say', 'write', 'write_file']


class Exit(IntEnum):
    """The exit codes of every command."""

    FINE = 0
    """Nothing is wrong."""
    WARNINGS = 1
    """Warnings were found, or a metric has left what is tolerated."""
    ERRORS = 2
    """Errors were found, or parts of a file are damaged."""
    UNREADABLE = 3
    """There was nothing to read or to write, or the command was used in a way that it cannot be."""
    INTERRUPTED = 130
    """Ctrl-C: as a shell tells of every program that it ends."""


_SEVERITIES = {'info': Exit.FINE, 'warning': Exit.WARNINGS, 'error': Exit.ERRORS}


def exit_code_of(severities: Iterable[str]) -> Exit:
    """Return the exit code that the most severe of several findings makes.

    Example:
        >>> exit_code_of(['info', 'error', 'warning']), exit_code_of([])
        (<Exit.ERRORS: 2>, <Exit.FINE: 0>)
    """
    return max((_SEVERITIES[severity] for severity in severities), default=Exit.FINE)


class Refused(click.ClickException):
    """What cannot be done, in one sentence."""

    exit_code = Exit.UNREADABLE

    def format_message(self) -> str:
        """Return the sentence, without anything that a terminal would obey."""
        return plain(self.message)

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the sentence; the exit code says enough where that is not possible."""
        write(f'Error: {self.format_message()}', err=True)


_NO_ARGUMENTS: type[click.UsageError] = getattr(click.exceptions, 'NoArgsIsHelpError', click.NoSuchOption)


class Command(click.Command):
    """A command that ends with one of :class:`Exit`, whatever happens."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Refuse what cannot be typed: click's own exit code for that is 2, which means errors in the run."""
        try:
            return super().make_context(*args, **kwargs)
        except _NO_ARGUMENTS as error:
            error.show()
            raise click.exceptions.Exit(Exit.UNREADABLE) from error
        except click.UsageError as error:
            raise Refused(error.format_message()) from error
        except OSError as error:
            # Of the help, which click writes.
            _go_on_without(sys.stdout, error)
            raise click.exceptions.Exit(Exit.FINE) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what goes wrong in it is a sentence."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise Refused(error.format_message()) from error
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt as error:
            write('interrupted', err=True)
            raise click.exceptions.Exit(Exit.INTERRUPTED) from error
        except MemoryError as error:
            raise Refused(f'there is not enough memory for {ctx.command.name}') from error
        except OSError as error:
            # What has no name is the output.
            what = str(error) if error.filename else f'{ctx.command.name}: {error.strerror or error}'
            raise Refused(what) from error
        except ValueError as error:
            raise Refused(str(error) or type(error).__name__) from error
        except Exception as error:
            what = f'{type(error).__name__}: {error}'
            raise Refused(
                f'normmon {ctx.command.name} failed ({what}); this is a mistake of normmon, please report it'
            ) from error


def say(text: str, err: bool = False, nl: bool = True, **style: Any) -> None:
    """Print a text that may be of unknown origin.

    Arguments:
        text: what to print; only what can be seen of it is printed.
        err: to standard error.
        nl: end the line.
        style: of the whole text, as ``click.style`` has it; left out where there are no colours.
    """
    text = plain(text, most=100_000)
    if style and has_colours(sys.stderr if err else sys.stdout):
        text = click.style(text, **style)
    write(text, err, nl)


def write(text: str, err: bool = False, nl: bool = True) -> None:
    """Write a text as it is; where nobody reads any more (``| head -1``) it is dropped, and the command goes on.

    The exit code is that of the command all the same. So it is where only messages cannot be written.

    Arguments:
        text: what to write.
        err: to standard error.
        nl: end the line.

    Raises:
        Refused: the output cannot be written, because a disk is full.
    """
    stream = sys.stderr if err else sys.stdout
    try:
        # Named, because click takes an ASCII stream for a mistake and writes UTF-8 to it.
        click.echo(text, file=stream, nl=nl)
    except OSError as error:
        _go_on_without(stream, error)


def _go_on_without(stream: IO[Any], error: OSError) -> None:
    drop_output(stream)
    if stream is sys.stdout and not isinstance(error, BrokenPipeError):
        raise Refused(f'the output cannot be written: {error.strerror or error}') from error


def write_file(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file whole or not at all.

    A link is not followed: whoever can write into a run's folder must not choose which file is overwritten.

    Arguments:
        path: the file; a device or a pipe is written to as it is.
        write: writes to the path that it is given.

    Raises:
        Refused: the file is a link, or cannot be written.
    """
    try:
        mode = path.lstat().st_mode if os.path.lexists(path) else stat.S_IFREG
        if stat.S_ISLNK(mode) and (not path.exists() or path.is_file() or path.is_dir()):
            raise Refused(f'{path} is a symbolic link and is left as it is; name another file with --output')
        if stat.S_ISDIR(mode):
            raise Refused(f'{path} is a folder; name a file with --output')
        if not stat.S_ISREG(mode):
            write(path)
            return
        handle, unfinished = tempfile.mkstemp(prefix='.unfinished-', suffix=path.suffix, dir=path.parent)
        os.close(handle)
        try:
            write(Path(unfinished))
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(unfinished, 0o666 & ~mask)
            os.replace(unfinished, path)
        except BaseException:
            os.unlink(unfinished)
            raise
    except OSError as error:
        raise Refused(f'{path} cannot be written: {error.strerror or error}') from error


def missing_package(error: ImportError, extra: str) -> Refused:
    """Return what to say where a package is not installed."""
    return Refused(f'{error}; to install what is missing: {install_command(extra)}')
