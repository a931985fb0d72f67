"""What all invariants have in common."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.core.finding import Severity
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window

__all__ = ['ExpectedInvariant', 'Invariant', 'broken']


@dataclass
class Invariant(Rule):
    """Something that must hold: a finding in the first record in which it does not.

    An invariant judges every record, also where there is no time for the other rules, and so reads the newest record
    alone (``window.record``) and what it remembers itself.

    Example:
        >>> @dataclass
        ... class FullBatches(Invariant):
        ...     name: ClassVar[str] = 'full_batches'
        ...     advice: ClassVar[str] = 'Look at the replay buffer.'
        ...     def signs(self, window):
        ...         if window.record.scalars.get('data/batch_size', 64.0) < 64.0:
        ...             yield Sign('The batch is not full.')
    """

    follows: ClassVar[bool] = False
    judges_all: ClassVar[bool] = True

    severity: Severity = 'error'
    confirm: int = 1
    clear: int = 3
    warmup: int = 0

    def signs(self, window: Window) -> Iterable[Sign]:
        """Yield what is broken in the newest record."""
        return ()


@dataclass
class ExpectedInvariant(Invariant):
    """Something that has held since the run began, as far as the run itself tells; it may be broken on purpose.

    Options:
        settled: records in which it has to have held before it is expected.
    """

    severity: Severity = 'warning'
    settled: int = 5


def broken(window: Window, what: str) -> dict[str, float]:
    """Return the figures ``broken/{what}/...`` of the newest record, without that beginning.

    >>> from ding_normmon.core.record import Record
    >>> window = Window({})
    >>> window.add(Record(0, {'broken/replicas/encoder/gradient': 1.0, 'norm/encoder/_total_norm': 2.0}))
    >>> broken(window, 'replicas')
    {'encoder/gradient': 1.0}
    """
    beginning = f'broken/{what}/'
    found = window.matching(f'{re.escape(beginning)}.*')
    return {name.removeprefix(beginning): value for name, value in found.items() if value}
