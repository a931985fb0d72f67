"""A decision of rank 0, as plain data that can be sent between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ['STRETCH', 'TWO_PHASE', 'WATCH', 'ControlError', 'Decision', 'is_cadence', 'is_two_phase', 'read_decision']

TWO_PHASE = frozenset({'stop', 'checkpoint'})
"""Actions that happen on all ranks or on none; those about how often something is measured do too."""

STRETCH = 'stretch '
"""Prefix of an action: ``'stretch plasticity 4'`` measures plasticity four times less often than configured."""

WATCH = 'watch '
"""Prefix of an action: ``'watch 8'`` watches every eighth learner step, ``'watch 0'`` none."""


def is_two_phase(action: str) -> bool:
    """Return whether every rank has to promise before rank 0 commits."""
    return action in TWO_PHASE or is_cadence(action)


def is_cadence(action: str) -> bool:
    """Return whether it is about how often something is measured: a late rank follows the others then."""
    return action.startswith((STRETCH, WATCH))


class ControlError(ValueError):
    """A decision that cannot be posted."""


@dataclass(frozen=True)
class Decision:
    """Something that every rank does at one iteration.

    Arguments:
        number: ascending; a decision that is posted again gets a new number.
        iteration: it takes effect right before the learner step of this iteration.
        action: name under which callbacks are registered, such as ``'stop'``.
        committed: whether it may be acted upon; always true for what is not two-phase.
    """

    number: int
    iteration: int
    action: str
    committed: bool = True


def read_decision(fields: Mapping[str, Any]) -> Decision:
    """Return the decision that a mapping of plain values describes.

    Raises:
        KeyError, TypeError, ValueError: the mapping does not describe a decision.

    >>> read_decision({'number': 1, 'iteration': 50, 'action': 'stop', 'committed': True}).action
    'stop'
    """
    return Decision(
        number=int(fields['number']),
        iteration=int(fields['iteration']),
        action=str(fields['action']),
        committed=bool(fields['committed']),
    )
