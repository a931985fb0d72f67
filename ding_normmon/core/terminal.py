"""What a terminal, or a file that output goes to, can show: width, colours and characters."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import shutil
import sys
import textwrap
from typing import IO, Any

__all__ = ['WIDTH', 'drop_output', 'has_colours', 'never_fail', 'terminal_width', 'time_text', 'wrapped']

WIDTH = 79
"""Columns of output that no terminal shows."""

_NARROWEST = 40


def terminal_width() -> int:
    """Return the columns of the terminal, or what ``COLUMNS`` says; :data:`WIDTH` where there is none."""
    return max(_NARROWEST, shutil.get_terminal_size((WIDTH, 24)).columns)


def has_colours(stream: IO[Any]) -> bool:
    """Return whether a stream may get colours: a terminal that has them, and ``NO_COLOR`` is not set."""
    return stream.isatty() and not os.environ.get('NO_COLOR') and os.environ.get('TERM') != 'dumb'


_INSTEAD = {**dict(zip('▁▂▃▄▅▆▇█', '_.-~=+*#', strict=True)), '…': '...', '‘': "'", '’': "'", '–': '-', '→': '->'}


def never_fail() -> None:
    """Let both output streams write something else for a character that they cannot show, instead of raising an error.

    A stream that the process was started without (``>&-``) takes everything and shows nothing.

    Example:
        >>> _ = codecs.register_error('shown otherwise', _shown_otherwise)
        >>> 'Pong ▁▄█ … é'.encode('ascii', 'shown otherwise')
        b'Pong _~# ... \\\\xe9'
    """
    codecs.register_error('shown otherwise', _shown_otherwise)
    sys.stdout = sys.stdout or os.fdopen(os.open(os.devnull, os.O_WRONLY), 'w')
    sys.stderr = sys.stderr or os.fdopen(os.open(os.devnull, os.O_WRONLY), 'w')
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='shown otherwise')


def drop_output(stream: IO[Any]) -> None:
    """Let nothing more come out of a stream that cannot be written to, not even what waits in it."""
    with contextlib.suppress(OSError), open(os.devnull, 'w', encoding='utf-8') as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def _shown_otherwise(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    return ''.join(_INSTEAD.get(one) or one.encode('ascii', 'backslashreplace').decode() for one in wrong), error.end


def wrapped(text: str, width: int = WIDTH, indent: str = '', hang: str | None = None) -> str:
    """Return a text broken into lines at its spaces; what has no space stays whole.

    Arguments:
        text: the text; its own line breaks stay.
        width: columns of a line.
        indent: what every line begins with.
        hang: what lines after the first begin with; by default the same.

    Example:
        >>> print(wrapped('found in /runs/a-long-folder since iteration 7', 20, '  '))
          found in
          /runs/a-long-folder
          since iteration 7
    """
    following = indent if hang is None else hang
    lines: list[str] = []
    for line in text.split('\n'):
        lines += textwrap.wrap(
            line,
            width,
            initial_indent=following if lines else indent,
            subsequent_indent=following,
            break_long_words=False,
            break_on_hyphens=False,
        ) or ['']
    return '\n'.join(lines)


def time_text(seconds: float) -> str:
    """Return a duration for people.

    Example:
        >>> time_text(9.4), time_text(83), time_text(3_723), time_text(200_000)
        ('9 s', '1 min 23 s', '1 h 2 min', '2 d 7 h')
    """
    whole = max(0, round(seconds))
    parts = [(whole // 86_400, 'd'), (whole // 3600 % 24, 'h'), (whole // 60 % 60, 'min'), (whole % 60, 's')]
    first = next((place for place, (amount, _) in enumerate(parts) if amount), len(parts) - 1)
    return ' '.join(f'{amount} {unit}' for amount, unit in parts[first : first + 2])
