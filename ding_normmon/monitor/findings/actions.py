"""Actions of findings: a checkpoint or a stop on all ranks, decided through ``control``."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from ding_normmon.core.finding import Finding
from ding_normmon.core.lost_data import LostData
from ding_normmon.ranks.decisions.control import Control, ControlError

__all__ = ['FindingActions', 'action_of']

logger = logging.getLogger('ding_normmon')

_WARN = 'warn'


def action_of(finding: Finding, on_finding: str | Mapping[str, str]) -> str:
    """Return what a finding leads to: ``'warn'``, ``'checkpoint'`` or ``'stop'``.

    Arguments:
        finding: the finding.
        on_finding: see :class:`~ding_normmon.core.config.MonitorConfig`. The entry of a rule takes precedence over that
            of a severity; a single word applies to warnings and errors.

    Example:
        >>> finding = Finding('non_finite', 'error', since=5, found=5, sentence='', advice='')
        >>> action_of(finding, {'error': 'checkpoint', 'non_finite': 'stop'}), action_of(finding, 'checkpoint')
        ('stop', 'checkpoint')
        >>> action_of(Finding('clipping', 'info', since=5, found=5, sentence='', advice=''), 'stop')
        'warn'
    """
    if isinstance(on_finding, str):
        return _WARN if finding.severity == 'info' else on_finding
    return on_finding.get(finding.rule, on_finding.get(finding.severity, _WARN))


class FindingActions:
    """Asks all ranks, once per finding, to stop or to write a checkpoint at one iteration. Used on rank 0.

    Both are two-phase decisions, see :mod:`ding_normmon.ranks.decisions.control`; ranks may refuse.

    Arguments:
        on_finding: the action of each severity or rule.
        control: posts the decisions.
        lost_data: counts actions for which no callback is registered.

    Attributes:
        asked: the first finding that led to an action, by action.
    """

    def __init__(self, on_finding: str | Mapping[str, str], control: Control, lost_data: LostData) -> None:
        self._on_finding = on_finding
        self._control = control
        self._lost = lost_data
        self._known: set[tuple[str, object]] = set()
        self._wanted: dict[str, Finding] = {}
        self.asked: dict[str, Finding] = {}

    def take(self, findings: Iterable[Finding]) -> dict[str, str]:
        """Ask for the actions of the findings of one record, and return notes on them for that record.

        If too many decisions are open, an action is asked for again with a later record.
        """
        for finding in findings:
            action = action_of(finding, self._on_finding)
            if finding.is_active and action != _WARN and (action, finding.key) not in self._known:
                self._known.add((action, finding.key))
                self._wanted.setdefault(action, finding)
        return {f'finding/{action}': note for action in list(self._wanted) if (note := self._ask(action))}

    def _ask(self, action: str) -> str | None:
        finding = self._wanted[action]
        if not self._control.has_callback(action):
            del self._wanted[action]
            self._lost.count(
                f'finding_{action}',
                f'on_finding says {action!r}, but nothing was registered for it: monitor.control.on({action!r}, ...)',
            )
            return None
        try:
            self._control.post(action)
        except ControlError as error:
            logger.debug('monitor: %s is asked for again with the next record: %s', action, error)
            return None
        del self._wanted[action]
        self.asked.setdefault(action, finding)
        note = f'asked all ranks for a {action} because of {finding.rule}: {finding.sentence}'
        logger.warning('monitor: %s', note)
        return note
