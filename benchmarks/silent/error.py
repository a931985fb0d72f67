"""What is planted, and what was said about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ding_normmon.core.finding import Finding
from ding_normmon.core.record import Record

__all__ = ['PLANTED', 'STEPS', 'SilentError', 'Verdict', 'judge']

STEPS = 45
"""Learner steps of every run; each is monitored."""

PLANTED = 30
"""The iteration at which an error begins, unless it is there from the start."""


@dataclass(frozen=True)
class SilentError:
    """One error.

    Arguments:
        name: how the table calls it.
        source: where it happened to somebody: a case of TrainCheck's collection, or empty for one of the same kind.
        rules: the rules whose finding says what is wrong.
        exact: whether what it breaks must always hold; what is only expected may take five records.
        run: trains with it and returns the records.
        planted: iteration at which it begins.
    """

    name: str
    source: str
    rules: frozenset[str]
    exact: bool
    run: Callable[[], Sequence[Record]]
    planted: int = PLANTED


@dataclass(frozen=True)
class Verdict:
    """What came of one error.

    Arguments:
        error: what was planted.
        found: the first finding of one of its rules from then on.
        early: findings of invariants before it: false alarms.
        delay: records from the first that could show it to the one that told it, 1 for that one itself.
    """

    error: SilentError
    found: Finding | None
    early: tuple[Finding, ...]
    delay: int | None

    @property
    def in_time(self) -> bool:
        """Whether it was told as early as it should be."""
        return self.delay is not None and self.delay <= (1 if self.error.exact else 5)


def judge(error: SilentError, invariants: frozenset[str]) -> Verdict:
    """Train with an error and look at what was said."""
    records = error.run()
    findings = [finding for record in records for finding in record.findings if finding.is_active]
    early = tuple(entry for entry in findings if entry.found < error.planted and entry.rule in invariants)
    found = next((entry for entry in findings if entry.found >= error.planted and entry.rule in error.rules), None)
    after = [record.iteration for record in records if record.iteration >= error.planted]
    delay = None if found is None else after.index(found.found) + 1
    return Verdict(error, found, early, delay)
