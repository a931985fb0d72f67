"""Finds records that must be judged even if there is little time for judging."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping

__all__ = ['Alarm']

_JUMPS = {'grad': 3.0, 'norm/': 3.0, 'logits/': 3.0, 'noreduce_': 3.0, 'learning_rate/': 1.0}
"""Orders of magnitude above the usual size that raise the alarm, by family.

The largest figure of each is watched. Schedules move learning rates slowly: there, less is a jump.
"""

_WHOLE = ('noreduce_', 'learning_rate/')
"""Families of which every figure counts."""

_USUAL = 15
"""Records that define the usual size; after a jump to a new level about half as many raise the alarm."""


class Alarm:
    """Raised by non-finite values, by a gradient that clipping removed, and by a jump by orders of magnitude.

    Example:
        >>> alarm = Alarm()
        >>> [alarm.rings({'grad/model/_total_norm': size}) for size in (1.0, 2.0, 1.5, 1.0, 1e10)]
        [False, False, False, False, True]
    """

    def __init__(self) -> None:
        self._usual: dict[str, deque[float]] = {family: deque(maxlen=_USUAL) for family in _JUMPS}
        # Usually records have the same figures.
        self._watched: dict[tuple[str, ...], dict[str, list[str]]] = {}

    def rings(self, scalars: Mapping[str, float]) -> bool:
        """Take the figures of the next record and return whether it must be judged."""
        names = tuple(scalars)
        if names not in self._watched:
            self._watched = {names: _watched(names), **dict(list(self._watched.items())[:7])}
        rings = False
        for family, members in self._watched[names].items():
            if family not in _JUMPS:
                rings |= family == 'nonfinite' or any(scalars[name] == 0.0 for name in members)
                continue
            size = max((abs(scalars[name]) for name in members), default=0.0)
            if 0 < size < math.inf:
                usual, order = self._usual[family], math.log10(size)
                rings |= len(usual) >= 3 and order - statistics.median(usual) >= _JUMPS[family]
                usual.append(order)
        return rings


def _watched(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        if name.startswith('monitor/nonfinite/'):
            found.setdefault('nonfinite', []).append(name)
        elif name.startswith('clip/') and name.endswith('/coefficient'):
            found.setdefault('clip', []).append(name)
        else:
            family = next((family for family in _JUMPS if name.startswith(family)), None)
            if (family is not None and name.endswith(('_total_norm', 'abs_max'))) or family in _WHOLE:
                found.setdefault(family, []).append(name)
    return found
