"""Finds records that must be judged even if there is little time for judging."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping

__all__ = ['Alarm']

_FAMILIES = ('grad', 'norm/', 'logits/', 'noreduce_')
"""The largest figure of each family is watched: gradients, weights, logits, losses."""

_JUMP = 3.0
"""Orders of magnitude above the usual size."""

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
        self._usual: dict[str, deque[float]] = {family: deque(maxlen=_USUAL) for family in _FAMILIES}
        # Usually records have the same figures.
        self._watched: dict[tuple[str, ...], dict[str, list[str]]] = {}

    def rings(self, scalars: Mapping[str, float]) -> bool:
        """Take the figures of the next record and return whether it must be judged."""
        names = tuple(scalars)
        if names not in self._watched:
            self._watched = {names: _watched(names), **dict(list(self._watched.items())[:7])}
        rings = False
        for family, members in self._watched[names].items():
            if family not in _FAMILIES:
                rings |= family == 'nonfinite' or any(scalars[name] == 0.0 for name in members)
                continue
            size = max((abs(scalars[name]) for name in members), default=0.0)
            if 0 < size < math.inf:
                usual, order = self._usual[family], math.log10(size)
                rings |= len(usual) >= 3 and order - statistics.median(usual) >= _JUMP
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
            family = next((family for family in _FAMILIES if name.startswith(family)), None)
            if (family is not None and name.endswith(('_total_norm', 'abs_max'))) or family == 'noreduce_':
                found.setdefault(family, []).append(name)
    return found
