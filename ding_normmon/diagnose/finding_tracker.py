"""Turns the signs of single records into findings that are raised once and cleared once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ding_normmon.core.finding import Finding
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window
from ding_normmon.diagnose.wording import sentence

__all__ = ['COOL_DOWN', 'FindingTracker']

COOL_DOWN = 20
"""For this many records after a finding has cleared, the same one is not raised again."""


@dataclass
class _Entry:
    first: int  # iteration of the first sign in a row
    seen: int = 0  # records with a sign above the threshold since the last record without any sign
    unseen: int = 0  # records in a row without a sign, once there is a finding
    finding: Finding | None = None
    rest_until: int = 0


class FindingTracker:
    """Tracks the signs and findings of one rule.

    Arguments:
        rule: the rule.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._entries: dict[Any, _Entry] = {}

    def observe(self, window: Window, signs: list[Sign], follows: Callable[[Sign], bool], number: int) -> list[Finding]:
        """Process the signs of one record; return the findings that they raise or clear.

        Arguments:
            window: the run.
            signs: the rule's signs in this record.
            follows: whether a sign follows from something else; its finding is only information then.
            number: number of records that the rule has judged, this one included.
        """
        if not signs and not self._entries:
            return []
        by_key = {sign.key: sign for sign in signs if sign.strength >= self.rule.release}
        found = []
        for key, sign in by_key.items():
            entry = self._entries.setdefault(key, _Entry(window.iteration))
            if entry.finding is not None:
                entry.unseen = 0
            elif number >= entry.rest_until and (sign.strength >= 1 or entry.seen):
                # A strength between release and 1 neither counts nor resets the count: single batches fluctuate.
                entry.first = window.iteration if entry.seen == 0 else entry.first
                entry.seen += sign.strength >= 1
                if entry.seen >= max(1, self.rule.confirm):
                    found.append(self._raise(window, sign, entry, follows(sign)))
        for key, entry in list(self._entries.items()):
            if key in by_key:
                continue
            entry.seen = 0
            if entry.finding is not None:
                entry.unseen += 1
                if entry.unseen >= max(1, self.rule.clear):
                    found.append(self._clear(window, entry, number))
            elif number >= entry.rest_until:
                del self._entries[key]
        return found

    def _raise(self, window: Window, sign: Sign, entry: _Entry, follows: bool) -> Finding:
        severity, key = sign.severity or self.rule.severity, sign.sentence
        words = self.rule.words
        is_worded = key in words.get('en', {})
        follows = follows and severity != 'info'
        if follows:
            severity, key = 'info', f'{key}+' if is_worded else f'{key} It may follow from what was just found.'
        tasks = {task_id: window.tasks.get(task_id, f'task {task_id}') for task_id in sign.tasks}
        values = dict(sign.values)
        if 'other' in values:
            values['other_name'] = window.tasks.get(int(values['other']), '')
        entry.finding = Finding(
            rule=self.rule.name,
            severity=severity,
            since=entry.first if sign.since is None else sign.since,
            found=window.iteration,
            sentence=sentence(words, key, values, tasks),
            advice=self.rule.advice,
            tasks=sign.tasks,
            task_names=tuple(tasks.values()),
            group=sign.group,
            evidence={name: float(value) for name, value in sign.evidence.items()},
            wording=key if is_worded else '',
            values=values,
        )
        entry.seen, entry.unseen = 0, 0
        return entry.finding

    def _clear(self, window: Window, entry: _Entry, number: int) -> Finding:
        assert entry.finding is not None
        finding = dataclasses.replace(entry.finding, cleared=window.iteration)
        entry.finding, entry.unseen = None, 0
        entry.rest_until = number + COOL_DOWN
        return finding
