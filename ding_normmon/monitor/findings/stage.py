"""Judges finished records by the rules before they go to the destinations; on rank 0."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ding_normmon.core.config import ConfigurationError, MonitorConfig
from ding_normmon.core.figures import Figures
from ding_normmon.core.finding import SEVERITIES, Finding, tell
from ding_normmon.core.lost_data import LostData
from ding_normmon.core.record import Record
from ding_normmon.monitor.budget.time_share import TimeShare
from ding_normmon.monitor.findings.actions import FindingActions
from ding_normmon.monitor.findings.alarm import Alarm
from ding_normmon.ranks.decisions.control import Control

if TYPE_CHECKING:
    from ding_normmon.diagnose import Diagnosis, Rule

__all__ = ['DiagnosisStage', 'FindingCallback', 'check_rules']

logger = logging.getLogger('ding_normmon')

_LEVELS = {'info': logging.INFO, 'warning': logging.WARNING, 'error': logging.ERROR}

_SHARE_OF_BUDGET = 0.25
"""Share of the budget for judging."""


class DiagnosisStage:
    """Judges the records of a run in the order of iterations; without a judge they stay as they are.

    It works in the monitor's background thread on rank 0; any thread may read ``active`` and ``findings``.

    Arguments:
        judge: the rules; None if records are not judged (switched off, or not rank 0).
        lost_data: counts records that could not be judged.
        actions: actions of findings.
        share: share of the time that judging may take, because training needs the interpreter too. To stay under it,
            some records are judged by the invariants alone, unless an :class:`Alarm
            <ding_normmon.monitor.findings.alarm.Alarm>` is raised. None for no limit.

    Attributes:
        active: the findings that were active at the last record.
        findings: every finding of the run, in its latest state.
        judged: number of records that all rules have judged.

    Example:
        >>> class Judge:
        ...     active = findings = (Finding('odd', 'warning', since=3, found=5, sentence='Odd.', advice='Wait.'),)
        ...     switched_off = {}
        ...     def observe(self, record):
        ...         return self.active
        ...     check = observe
        >>> stage = DiagnosisStage(Judge(), LostData())
        >>> record = stage.judge(Record(5))
        >>> [finding.rule for finding in record.findings], list(record.scalars)
        (['odd'], ['monitor/cost/ms_diagnosis'])
    """

    def __init__(
        self,
        judge: Diagnosis | None = None,
        lost_data: LostData | None = None,
        actions: FindingActions | None = None,
        share: float | None = None,
    ) -> None:
        self._judge = judge
        self._time_share = None if share is None else TimeShare(share, time.perf_counter())
        self._lost = LostData() if lost_data is None else lost_data
        self._actions = actions
        self.active: tuple[Finding, ...] = ()
        self.findings: tuple[Finding, ...] = ()
        self.judged = 0
        self._failed: set[str] = set()
        self._alarm = Alarm()

    @classmethod
    def of(
        cls,
        config: MonitorConfig,
        rules: Sequence[Rule],
        control: Control,
        lost_data: LostData,
        rank: int,
        figures: Figures | None = None,
    ) -> DiagnosisStage:
        """Return the stage that a configuration asks for; ranks other than 0 only check it.

        Arguments:
            config: has ``diagnose``, ``rules``, ``on_finding`` and ``budget``.
            rules: further rules.
            control: how ranks decide together.
            lost_data: counts what could not be judged.
            rank: of this process.
            figures: declarations of the metrics.

        Raises:
            ConfigurationError: a rule or an option that does not exist.
        """
        if not config.diagnose:
            return cls()
        # Imported only if judging is switched on.
        from ding_normmon.diagnose import Diagnosis

        check_rules(config, rules)
        judge = Diagnosis({}, rules=rules, options=config.rules, figures=figures)
        if rank != 0:
            return cls()
        share = None if config.budget is None else _SHARE_OF_BUDGET * config.budget
        return cls(judge, lost_data, FindingActions(config.on_finding, control, lost_data), share)

    @property
    def not_judged(self) -> dict[str, str]:
        """Rules whose figures are in no record so far, with these figures; empty if records are not judged."""
        return {} if self._judge is None else self._judge.not_judged

    def name_tasks(self, tasks: Mapping[int, str]) -> None:
        """Take the tasks' names, before the first record."""
        if self._judge is not None:
            self._judge.name_tasks(tasks)

    @property
    def is_on(self) -> bool:
        """Whether records are judged on this rank."""
        return self._judge is not None

    @property
    def asked(self) -> dict[str, Finding]:
        """The finding that first asked for a ``'stop'`` or a ``'checkpoint'``, by action."""
        return {} if self._actions is None else dict(self._actions.asked)

    def judge(self, record: Record) -> Record:
        """Return the record with its findings, after logging them and starting their actions."""
        if self._judge is None:
            return record
        has_time = self._time_share is None or self._time_share.allows(time.perf_counter())
        # By the clock most of it is waiting for the learner to release the interpreter, which costs nobody anything.
        begin = time.thread_time()
        everything = self._alarm.rings(record.scalars) or has_time
        found: tuple[Finding, ...] = ()
        try:
            found = tuple(self._judge.observe(record) if everything else self._judge.check(record))
            self.judged += everything
            self.active, self.findings = tuple(self._judge.active), tuple(self._judge.findings)
        except Exception as error:
            self._lost.count('diagnosis', f'a record could not be judged: {type(error).__name__}: {error}')
        for name in self._judge.switched_off.keys() - self._failed:
            self._failed.add(name)
            # The judge has logged it.
            self._lost.count(f'rule_{name}', f'the rule {name} failed and is switched off', level=logging.DEBUG)
        for finding in found:
            logger.log(_LEVELS[finding.severity], 'monitor: %s', tell(finding))
        if self._actions is not None:
            record.notes.update(self._actions.take(found))
        spent = time.thread_time() - begin
        record.scalars['monitor/cost/ms_diagnosis'] = spent * 1e3
        if self._time_share is not None and everything:
            self._time_share.spend(spent)
        return dataclasses.replace(record, findings=found)


def check_rules(config: MonitorConfig, rules: Sequence[Rule] = ()) -> None:
    """Check that every rule and option in a configuration exists.

    Arguments:
        config: has ``rules`` and ``on_finding``.
        rules: further rules that the run will have.

    Raises:
        ConfigurationError: one does not; the message names the nearest that does.

    Example:
        >>> check_rules(MonitorConfig.read({'on_finding': {'eror': 'stop'}}))
        Traceback (most recent call last):
            ...
        ding_normmon.core.config.ConfigurationError: monitor.on_finding.eror: no such severity or rule; the nearest \
is error
    """
    from ding_normmon.diagnose import Diagnosis

    every_rule = [rule.name for rule in Diagnosis({}, rules=rules).rules]
    Diagnosis({}, rules=rules, options=config.rules)
    known = [*SEVERITIES, *every_rule]
    for name in config.on_finding if isinstance(config.on_finding, Mapping) else ():
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ConfigurationError(f'monitor.on_finding.{name}: no such severity or rule; the nearest is {nearest}')


class FindingCallback:
    """A destination that calls a user's function with every finding when it is raised and when it has cleared.

    Like every destination it has its own thread, so a slow function delays nothing else.

    Arguments:
        callback: called on rank 0 with one finding at a time.

    Example:
        >>> callback = FindingCallback(lambda finding: print(finding.rule, finding.is_active))
        >>> callback.publish(Record(5, findings=(Finding('odd', 'info', 3, 5, 'Odd.', 'Wait.'),)))
        odd True
    """

    only_findings = True

    def __init__(self, callback: Callable[[Finding], object]) -> None:
        self._callback = callback

    def publish(self, record: Record) -> None:
        """Hand on the record's findings."""
        raised: BaseException | None = None
        for finding in record.findings:
            try:
                self._callback(finding)
            except (Exception, SystemExit, KeyboardInterrupt) as error:
                raised = raised or error
        if raised is not None:
            # Raised after all findings were passed on; the caller counts it.
            raise raised

    def close(self) -> None:
        """Do nothing."""
