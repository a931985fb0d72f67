"""Finds the place in the program of a call, to detect that a loop has begun another round.

The body of a loop runs from its top to its bottom. What is called further up than a call that has been made is called
by the next round of the loop.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import CodeType, FrameType

__all__ = ['CallSite']

_OWN = tuple(f'{Path(__file__).parents[2] / room}{os.sep}' for room in ('core', 'integrations', 'monitor'))
"""Files of the functions between a watched program and what it calls."""


class CallSite:
    """The calls that lead to the place where this is constructed, from the main module inwards.

    What the monitor itself has put in between does not count. It keeps code objects and positions in them, and no
    frame: nothing of a step stays alive.

    Example:
        >>> seen = []
        >>> for _ in range(2):
        ...     seen.append(CallSite())
        ...     seen.append(CallSite())
        >>> first, second, again, _ = seen
        >>> second.is_above(first), again.is_above(second), again.is_same(first)
        (False, True, True)
    """

    __slots__ = ('_path',)

    def __init__(self) -> None:
        path: list[tuple[CodeType, int]] = []
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if not frame.f_code.co_filename.startswith(_OWN):
                path.append((frame.f_code, frame.f_lasti))
            frame = frame.f_back
        self._path = path[::-1]

    def passes(self, code: CodeType) -> bool:
        """Tell whether one of the calls runs in this function."""
        return any(code is entry for entry, _ in self._path)

    def is_same(self, other: CallSite) -> bool:
        """Tell whether both are the same call."""
        return self._path == other._path

    def is_above(self, other: CallSite) -> bool:
        """Tell whether this call stands further up in the function that both come from."""
        for (code, position), (other_code, other_position) in zip(self._path, other._path, strict=False):
            if code is not other_code:
                # Another thread, or another function that was called from the same place: nothing is known.
                return False
            if position != other_position:
                return position < other_position
        return False
