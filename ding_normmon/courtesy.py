"""Letting the learner go first: work in the background that gives the interpreter lock back every few items.

A background thread that computes in Python keeps the interpreter lock for up to 5 ms (``sys.getswitchinterval``) after
the learner has asked for it, and the learner asks after every call into torch. Handing it back every few dozen items
costs a microsecond each time and takes those waits away.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ['in_slices']

Item = TypeVar('Item')


def in_slices(items: Iterable[Item], size: int = 16) -> Iterator[Item]:
    """Yield the items, offering the interpreter lock to other threads before every ``size`` of them.

    >>> list(in_slices('abc', size=2))
    ['a', 'b', 'c']
    """
    for index, item in enumerate(items):
        if index % size == 0:
            time.sleep(0)
        yield item
