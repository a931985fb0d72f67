"""A decision of rank 0, as plain data that can be sent between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ['STRETCH', 'TWO_PHASE', 'ControlError', 'Decision', 'is_two_phase', 'read_decision']

TWO_PHASE = frozenset({'stop', 'checkpoint'})
"""Actions that happen on all ranks or on none; those that begin with :data:`STRETCH` do too."""

STRETCH = 'stretch '
"""Prefix of an action: ``'stretch plasticity 4'`` measures plasticity four times less often than configured."""


def is_two_phase(action: str | None) -> bool:
    """Return whether every rank has to promise before rank 0 commits."""
    return action is not None and (action in TWO_PHASE or action.startswith(STRETCH))


class ControlError(ValueError):
    """A decision that cannot be posted."""


@dataclass(frozen=True)
class Decision:
    """Something that every rank does at one iteration.

    Arguments:
        number: ascending; a decision that is posted again gets a new number.
        iteration: it takes effect right before the learner step of this iteration.
        frequency: new ``monitor_norm_freq``, a multiple of the configured one; None: no change.
        owners: new task ids of every rank, by rank; None: no change.
        action: name under which callbacks are registered, such as ``'stop'``; None for no action.
        committed: whether it may be applied; always true unless the action is two-phase.
    """

    number: int
    iteration: int
    frequency: int | None = None
    owners: tuple[tuple[int, ...], ...] | None = None
    action: str | None = None
    committed: bool = True


def read_decision(fields: Mapping[str, Any]) -> Decision:
    """Return the decision that a mapping of plain values describes.

    Raises:
        KeyError, TypeError, ValueError: the mapping does not describe a decision.

    >>> fields = {'number': 1, 'iteration': 50, 'frequency': 20, 'owners': None, 'action': None, 'committed': True}
    >>> read_decision(fields).frequency
    20
    """
    owners = fields['owners']
    return Decision(
        number=int(fields['number']),
        iteration=int(fields['iteration']),
        frequency=None if fields['frequency'] is None else int(fields['frequency']),
        owners=None if owners is None else tuple(tuple(int(task) for task in tasks) for tasks in owners),
        action=None if fields['action'] is None else str(fields['action']),
        committed=bool(fields['committed']),
    )
