"""Findings as a person reads them: by rule, the active ones first, each rule's advice once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ding_normmon.core.finding import SEVERITIES, Finding, Severity
from ding_normmon.core.plain_text import plain
from ding_normmon.core.terminal import WIDTH, wrapped

__all__ = ['FindingGroup', 'group_findings']


@dataclass(frozen=True)
class FindingGroup:
    """What one rule found in a run.

    Arguments:
        rule: name of the rule.
        findings: the active ones first, then by severity, then the oldest first.
    """

    rule: str
    findings: tuple[Finding, ...]

    @property
    def severity(self) -> Severity:
        """The severity of its first finding, the most severe of those that are active."""
        return self.findings[0].severity

    @property
    def advice(self) -> list[str]:
        """What to try, each advice once."""
        return list(dict.fromkeys(finding.advice for finding in self.findings if finding.advice))

    def lines(self, width: int = WIDTH) -> Iterator[str]:
        """Yield the findings and the advice as lines of text.

        A finding that came and went several times is shown once: its last time, and how often it occurred before.
        """
        latest: dict[tuple[object, ...], list[Finding]] = {}
        for finding in self.findings:
            latest.setdefault(finding.key if finding.cleared is not None else (id(finding),), []).append(finding)
        for told in latest.values():
            last = max(told, key=lambda finding: finding.found)
            more = ''
            if len(told) > 1:
                first = min(finding.since for finding in told)
                more = f'; {len(told) - 1} times before, first at {first}'
            when = f'found at {last.found}, since {last.since}'
            when += '' if last.cleared is None else f', cleared at {last.cleared}'
            yield wrapped(f'{plain(last.sentence)} ({when}{more})', width, '  ', '    ')
        for advice in self.advice:
            yield wrapped(f'To try: {plain(advice)}', width, '  ', '    ')


def group_findings(findings: Iterable[Finding]) -> list[FindingGroup]:
    """Return findings by rule: rules with active findings first, then the most severe, then the oldest.

    Example:
        >>> old = Finding('growth', 'error', 1, 3, 'Task 0 (Pong): odd.', 'Wait.', tasks=(0,), cleared=9)
        >>> new = Finding('growth', 'warning', 5, 7, 'Task 1 (Boxing): odd.', 'Wait.', tasks=(1,))
        >>> gone = Finding('jump', 'error', 2, 2, 'All tasks: a jump.', 'Look.', cleared=4)
        >>> for group in group_findings([gone, old, new]):
        ...     print(group.severity, group.rule, *group.lines(), sep='\\n')
        warning
        growth
          Task 1 (Boxing): odd. (found at 7, since 5)
          Task 0 (Pong): odd. (found at 3, since 1, cleared at 9)
          To try: Wait.
        error
        jump
          All tasks: a jump. (found at 2, since 2, cleared at 4)
          To try: Look.
    """
    rules: dict[str, list[Finding]] = {}
    for finding in sorted(findings, key=_order):
        rules.setdefault(finding.rule, []).append(finding)
    return [FindingGroup(rule, tuple(found)) for rule, found in rules.items()]


def _order(finding: Finding) -> tuple[bool, int, int]:
    return not finding.is_active, -SEVERITIES.index(finding.severity), finding.since
