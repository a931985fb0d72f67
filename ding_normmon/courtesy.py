"""Letting the learner go first: work in the background that gives the interpreter lock back every now and then.

A background thread that computes in Python keeps the interpreter lock for up to 5 ms (``sys.getswitchinterval``) after
the learner has asked for it, and the learner asks after every call into torch. Handing it back takes those waits away.
It is done by the clock and not by the item: ``time.sleep(0)`` costs 20 µs of CPU time on a virtual machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ['in_slices']

Item = TypeVar('Item')

_SECONDS = 5e-4
"""For which the lock is held at a time."""


def in_slices(items: Iterable[Item], size: int = 16) -> Iterator[Item]:
    """Yield the items, offering the interpreter lock to other threads every 0.5 ms.

    Arguments:
        items: what is worked on.
        size: after how many items the clock is looked at.

    >>> list(in_slices('abc', size=2))
    ['a', 'b', 'c']
    """
    until = time.perf_counter() + _SECONDS
    for index, item in enumerate(items):
        if index % size == 0 and time.perf_counter() > until:
            time.sleep(0)
            until = time.perf_counter() + _SECONDS
        yield item
