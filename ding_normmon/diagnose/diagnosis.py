"""Runs all rules on the records of one run."""

from __future__ import annotations

import dataclasses
import difflib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ding_normmon.core.config import ConfigurationError
from ding_normmon.core.figures import Figures
from ding_normmon.core.finding import SEVERITIES, Finding
from ding_normmon.core.record import Record
from ding_normmon.diagnose.causes import Causes
from ding_normmon.diagnose.departures import SPACING
from ding_normmon.diagnose.finding_tracker import FindingTracker
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.rules import RULES
from ding_normmon.diagnose.window import Window

__all__ = ['Diagnosis']

logger = logging.getLogger('ding_normmon')

ECHO = 12
"""For this many records after a finding that names a cause, other findings count as its consequences."""

MADE_UP = 8
"""Of records that were skipped for lack of time at most so many, this one included, are added to the past."""


class Diagnosis:
    """Judges the records of a run one after another.

    Arguments:
        tasks: global task id to name.
        rules: further rules, which run after those of :data:`~ding_normmon.diagnose.rules.RULES`.
        options: settings by rule name: False switches the rule off, a mapping sets its options.
        figures: the declarations of the metrics; what they say decides what is judged and how.
        repeats: whether the same value again is the last measurement, written once more, as DI-engine's loggers do
            until there is a new one.

    Attributes:
        switched_off: rules that raised an exception, with its text; such a rule is not run again.

    Raises:
        ConfigurationError: a rule or an option that does not exist.

    Example:
        >>> diagnosis = Diagnosis({0: 'Pong'}, options={'non_finite': {'warmup': 0}})
        >>> finding, = diagnosis.observe(Record(7, {'monitor/nonfinite/grad/head_value_task0': 3.0}))
        >>> finding.rule, finding.severity, finding.sentence
        ('non_finite', 'error', 'Task 0 (Pong): 3 entries of the gradient of head_value are NaN or infinite.')
    """

    def __init__(
        self,
        tasks: Mapping[int, str],
        rules: Sequence[Rule] = (),
        options: Mapping[str, Mapping[str, Any] | bool] | None = None,
        figures: Figures | None = None,
        repeats: bool = False,
    ) -> None:
        self._window = Window(tasks, figures, repeats)
        self._causes = Causes(self._window)
        self._trackers = [FindingTracker(rule) for rule in _configured(rules, options or {})]
        self._runnable, self._known = self._trackers, -1
        self._findings: dict[tuple[Any, ...], Finding] = {}
        self._active: dict[tuple[Any, ...], Finding] = {}
        self._records = 0
        self._skipped: deque[Record] = deque(maxlen=MADE_UP * SPACING)
        self._named_at = -ECHO - 1
        self.switched_off: dict[str, str] = {}

    def name_tasks(self, tasks: Mapping[int, str]) -> None:
        """Take the tasks' names, where they are known only after construction."""
        self._window.tasks.update(tasks)

    @property
    def rules(self) -> list[Rule]:
        """The rules that are switched on."""
        return [tracker.rule for tracker in self._trackers]

    @property
    def findings(self) -> list[Finding]:
        """Every finding of the run in its latest state, oldest first."""
        return list(self._findings.values())

    @property
    def active(self) -> list[Finding]:
        """The findings that are still active."""
        return list(self._active.values())

    @property
    def not_judged(self) -> dict[str, str]:
        """Rules that could not run because their metrics are missing from all records, with those metrics."""
        return self.lacking(self._window.names)

    def lacking(self, names: Iterable[str]) -> dict[str, str]:
        """Return the rules that could not run on records with metrics of these names, with the metrics they need."""
        names = list(names)
        missing = {}
        for rule in self.rules:
            if rule.reads and not any(name.startswith(rule.reads) for name in names):
                missing[rule.name] = ', '.join(f'{family}*' for family in rule.reads)
        return missing

    def observe(self, record: Record) -> tuple[Finding, ...]:
        """Run the rules on one record; return the findings that it raised or cleared."""
        # Only the points before show whether a figure has jumped or grown, so the newest skipped records are added too.
        added = [record]
        while self._skipped and len(added) < MADE_UP:
            before = self._skipped.pop()
            if before.iteration <= added[-1].iteration - SPACING:
                added.append(before)
        self._skipped.clear()
        for each in reversed(added):
            self._window.add(each)
        return self._judge(everything=True)

    def check(self, record: Record) -> tuple[Finding, ...]:
        """Run the invariants alone on one record, where there is no time for the other rules."""
        self._window.show(record)
        self._skipped.append(record)
        return self._judge(everything=False)

    def _runnable_trackers(self) -> list[FindingTracker]:
        """Return the rules that have something to read; a rule whose metrics are nowhere costs nothing."""
        if self._known != len(self._window.names):
            self._known = len(self._window.names)
            lacking = self.not_judged
            self._runnable = [tracker for tracker in self._trackers if tracker.rule.name not in lacking]
        return self._runnable

    def _follows(self, rule: Rule) -> Callable[[Sign], bool]:
        """Return what decides whether a sign of a rule follows from something else."""

        def follows(sign: Sign) -> bool:
            if not rule.follows:
                return False
            is_echo = self._window.points.records - self._named_at <= ECHO
            return is_echo or self._is_named(sign) or self._causes.follows(sign)

        return follows

    def _is_named(self, sign: Sign) -> bool:
        """Return whether another stage of the same task, or of what is shared, has been found and is still there."""
        leading = {rule.name for rule in self.rules if rule.leads}
        return bool(sign.stage) and any(
            finding.tasks == sign.tasks and finding.severity != 'info' and finding.rule in leading
            for finding in self.active
        )

    def _judge(self, everything: bool) -> tuple[Finding, ...]:
        window, record = self._window, self._window.record
        self._records += 1
        found: list[Finding] = []
        for tracker in self._runnable_trackers():
            rule = tracker.rule
            number = self._records if rule.judges_all else window.points.records
            if number <= rule.warmup or not (everything or rule.judges_all):
                continue
            if rule.judges_departures and not window.departures.is_new:
                continue
            try:
                # The order in which a record names its figures says nothing.
                signs = sorted(map(_checked, rule.signs(window)), key=lambda sign: (sign.tasks, sign.group or ''))
                judged = tracker.observe(window, signs, self._follows(rule), number)
            except (Exception, SystemExit) as error:
                self.switched_off[rule.name] = f'{type(error).__name__}: {error}'
                logger.warning(
                    'monitor: the rule %s failed at iteration %d and is switched off: %s',
                    rule.name,
                    record.iteration,
                    self.switched_off[rule.name],
                )
                self._trackers.remove(tracker)
                self._known = -1
                continue
            for finding in judged:
                found.append(finding)
                self._findings[finding.key, finding.found] = finding
                if finding.is_active:
                    self._active[finding.key] = finding
                else:
                    self._active.pop(finding.key, None)
                # Rules that name a task with certainty run first, so their findings count in the same record too.
                names_cause = rule.leads and (finding.tasks or not rule.follows)
                if finding.is_active and finding.severity != 'info' and names_cause:
                    self._named_at = window.points.records
        return tuple(found)


def _checked(sign: Any) -> Sign:
    """Return a sign, checked and with plain Python numbers.

    Raises:
        TypeError, ValueError: it is not a valid sign, which a user's own rule may yield.
    """
    if not isinstance(sign, Sign):
        raise TypeError(f'expected signs, got {sign!r}')
    if sign.severity is not None and sign.severity not in SEVERITIES:
        raise ValueError(f'severity must be one of {", ".join(SEVERITIES)}; got {sign.severity!r}')
    sign = dataclasses.replace(sign, tasks=tuple(sign.tasks))
    if not all(isinstance(value, (int, float)) for value in sign.evidence.values()):
        raise TypeError(f'evidence must be a mapping from names to numbers, got {sign.evidence!r}')
    return sign


def _configured(further: Sequence[Any], options: Mapping[str, Mapping[str, Any] | bool]) -> list[Rule]:
    for rule in further:
        if not isinstance(rule, Rule):
            raise ConfigurationError(f'monitor: expected a rule (an instance of a subclass of Rule), got {rule!r}')
    known = {rule.name for rule in RULES} | {rule.name for rule in further}
    for name in options:
        if name not in known:
            nearest = difflib.get_close_matches(str(name), sorted(known), n=1, cutoff=0.0)[0]
            raise ConfigurationError(f'monitor.rules.{name}: no such rule; the nearest is {nearest}')
    chosen = []
    for kind in RULES:
        changes = options.get(kind.name, {})
        if changes is not False:
            chosen.append(kind.configured({} if changes is True else changes))
    for rule in further:
        changes = options.get(rule.name, {})
        if changes is not False:
            chosen.append(type(rule).configured(dict(changes)) if isinstance(changes, Mapping) and changes else rule)
    return chosen
