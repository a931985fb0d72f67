"""A finding: something that a rule found wrong in a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ding_normmon.core.plain_text import plain

__all__ = ['SEVERITIES', 'Finding', 'Severity', 'tell']

Severity = Literal['info', 'warning', 'error']

SEVERITIES: tuple[Severity, ...] = ('info', 'warning', 'error')
"""From the least to the most severe."""


@dataclass(frozen=True)
class Finding:
    """One thing that goes wrong in a run: what, in which task, since when, and what to try.

    A finding is published with the record in which it was found, and again, with ``cleared`` set, with the record in
    which the pattern was gone.

    Arguments:
        rule: name of the rule, such as ``head_growth``.
        severity: ``info``, ``warning`` or ``error``.
        since: iteration at which the pattern began.
        found: iteration of the record in which the finding was raised.
        sentence: what is wrong, in plain words, with the task's name.
        advice: what to try.
        tasks: global ids of the tasks at fault; empty if shared parts are at fault.
        task_names: their names, in the same order.
        group: parameter group or signal at fault, such as ``head_value``; None if there is no single one.
        evidence: figures behind the finding, by a short description or metric name.
        cleared: iteration of the record in which the pattern was gone; None while it is active.
        wording: which of its rule's sentences it is; empty if the rule has only this one, in English.
        values: values in the sentence, so that it can be written again in another language.

    Example:
        >>> finding = Finding('no_gradient', 'error', 40, 60, 'Task 1 (Pong): head_value gets no gradient.', 'Look ...',
        ...                   tasks=(1,), task_names=('Pong',), group='head_value')
        >>> finding.key
        ('no_gradient', (1,), 'head_value')
        >>> finding.is_active
        True
    """

    rule: str
    severity: Severity
    since: int
    found: int
    sentence: str
    advice: str
    tasks: tuple[int, ...] = ()
    task_names: tuple[str, ...] = ()
    group: str | None = None
    evidence: Mapping[str, float] = field(default_factory=dict)
    cleared: int | None = None
    wording: str = ''
    values: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, tuple[int, ...], str | None]:
        """Identity of the finding: findings with the same key are the same one at different times."""
        return (self.rule, self.tasks, self.group)

    @property
    def is_active(self) -> bool:
        """Whether the finding has not cleared."""
        return self.cleared is None


def tell(finding: Finding) -> str:
    """Return a finding as one line of text.

    Example:
        >>> tell(Finding('odd', 'warning', since=3, found=5, sentence='Task 1 (Pong): odd.', advice='Wait.'))
        'iteration 5: Task 1 (Pong): odd. (odd, since iteration 3) Wait.'
        >>> tell(Finding('odd', 'warning', 3, 5, 'Task 1 (Pong): odd.', 'Wait.', cleared=9))
        'iteration 9: cleared: Task 1 (Pong): odd. (odd, since iteration 3)'
    """
    # No square brackets: the handler that DI-engine gives to the root logger takes them for markup and swallows them.
    what = f'{plain(finding.sentence)} ({finding.rule}, since iteration {finding.since})'
    if finding.cleared is not None:
        return f'iteration {finding.cleared}: cleared: {what}'
    return f'iteration {finding.found}: {what} {plain(finding.advice)}'
