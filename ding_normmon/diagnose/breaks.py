"""What no spread of the past allows: exact zeros, other signs, losses that are unlearnt, weights that shrink."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ding_normmon.diagnose.past import Rows, Values
from ding_normmon.diagnose.tolerances import TOLERANCES

__all__ = ['BROKEN', 'note_past', 'note_sign', 'shrinks', 'turns', 'unlearnt', 'vanishes']

State = npt.NDArray[np.void]
"""An array of :data:`~ding_normmon.diagnose.tolerances.STATE`."""

Flags = npt.NDArray[np.bool_]

BROKEN = 3.0
"""Strength of a figure that has never been 0, or of the other sign, and is now."""

_OPPOSITE, _OF_ONE_SIGN, _CLEARLY, _FORGETS = 1.5, 4, 0.1, 0.8
"""A sign has turned where so many of the newest points, older ones counting less, have the one that none of at least
four points had before; what is smaller than a tenth of the usual size has none."""
_TINY = 0.01
"""Nor has a figure that is always so small beside what it is a part of."""

_NOTHING, _VALUE, _LIVELY = 1e-3, 0.05, 6
"""Values have a size above so much of the largest, or of this; after so many points with a size they do not vanish."""

_FALLEN, _RISE = 1.1, 1.5
"""A loss has fallen far if it is below a third of its highest value; above that value, it has to be by a factor."""


def note_past(state: State, rows: Rows, values: Values) -> None:
    """Note sizes and signs of points that enter the past."""
    sizes = np.abs(values)
    has_size = sizes > _NOTHING * np.maximum(state['size'][rows], _VALUE)
    state['streak'][rows] = np.where(has_size, state['streak'][rows] + 1, 0)
    state['smallest'][rows] = np.minimum(state['smallest'][rows], sizes)
    state['largest'][rows] = np.maximum(state['largest'][rows], sizes)
    signs = _signs(state, rows, values)
    state['balance'][rows] += signs
    state['is_mixed'][rows] |= signs * state['balance'][rows] < 0


def note_sign(state: State, rows: Rows, values: Values) -> None:
    """Note which of the newest points have another sign than the past."""
    signs = _signs(state, rows, values)
    kept = np.where(signs == 0, 1.0, _FORGETS) * state['opposite'][rows]
    state['opposite'][rows] = kept + (signs * state['balance'][rows] < 0)


def _signs(state: State, rows: Rows, values: Values) -> Values:
    """Return 1, -1, or 0 for what is small."""
    return np.where(np.abs(values) > _CLEARLY * state['largest'][rows], np.sign(values), 0.0)


def vanishes(state: State, rows: Rows, is_settled: Flags, lively: Values) -> Flags:
    """Return which figures have become exactly 0 and never are.

    Arguments:
        state: of all figures.
        rows: the figures with a new point.
        is_settled: whether each of them has a past to speak of.
        lively: what their points since the last one without a size are worth.
    """
    its = state[rows]
    was_large = its['smallest'] > _CLEARLY * its['largest']
    never_is: Flags = was_large & is_settled & ~its['may_vanish']
    # Values are made with a network, so that they are never all exactly 0.
    is_zero: Flags = (its['level'] == 0) & (never_is | (its['is_value'] & (lively >= _LIVELY)))
    return is_zero


def turns(state: State, rows: Rows) -> Flags:
    """Return which figures have another sign than they ever had."""
    its = state[rows]
    turned: Flags = (its['opposite'] >= _OPPOSITE) & (np.abs(its['balance']) >= _OF_ONE_SIGN)
    turned &= its['largest'] > _TINY * np.maximum(its['size'], its['least_size'])
    return turned & its['has_sign'] & ~its['is_mixed']


def unlearnt(state: State, rows: Rows, now: Values, threshold: float) -> Values:
    """Return strengths of losses that had fallen far and are above where they began.

    The past of what falls is so wide that nothing else would count.
    """
    highest = np.maximum(state['near_high'][rows], state['far_high'][rows])
    had_fallen = (highest - state['far_middle'][rows] > _FALLEN) & state['unlearns'][rows]
    above = (now - highest) / (_RISE * threshold * state['floor'][rows])
    return np.where(had_fallen, TOLERANCES['loss'].alone * above, 0.0)


def shrinks(state: State, rows: Rows, moved: Values, threshold: float) -> Values:
    """Return strengths of what training lets grow and falls faster than ever: its past has room for any level.

    Arguments:
        state: of all figures.
        rows: the figures with a new point.
        moved: how far each has moved over the last three points.
        threshold: spreads at the threshold.
    """
    faster = np.minimum(state['last_low'][rows], 0.0) - moved
    pace = state['pace'][rows]
    limit = threshold * np.maximum(pace, state['last_steps'][rows] / 2)
    return np.where(pace > 0, faster / np.maximum(limit, 1e-12), 0.0)
