"""What the history file of a run is called; imports nothing, so that folders of many runs are listed at once."""

from __future__ import annotations

__all__ = ['FILE_NAME', 'is_history_name']

FILE_NAME = 'history.arrows'
"""What the file is called in a run's folder."""


def is_history_name(name: str) -> bool:
    """Tell whether a file of this name may be a run's history.

    Example:
        >>> [is_history_name(name) for name in ('history.arrows', 'history-2.arrows', 'history-repaired.arrows')]
        [True, True, False]
    """
    number = name.removeprefix('history-').removesuffix('.arrows')
    return name == FILE_NAME or (name == f'history-{number}.arrows' and number.isascii() and number.isdigit())
