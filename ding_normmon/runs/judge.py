"""Judging a run that is on disk: what was found while it trained, or what today's rules find."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ding_normmon.core.finding import Finding
from ding_normmon.core.metric_names import task_in
from ding_normmon.core.record import Record
from ding_normmon.diagnose import Diagnosis, Rule
from ding_normmon.diagnose.rules import RULES
from ding_normmon.metrics import DECLARED
from ding_normmon.runs.rules import rules_of_today
from ding_normmon.runs.run import Run

__all__ = ['Judgement', 'diagnose', 'judge', 'measured_records', 'non_finite_curves', 'nothing_measured']

_JUDGED = 'monitor/cost/ms_diagnosis'
"""Every record that was judged while the run trained has this figure."""

_NON_FINITE = 'non_finite'

MOST_JUDGED = 20_000
"""Records of a finished run that the rules judge; in a longer run, a pattern lasts many records."""

_PROGRESS = 1000
"""Progress is reported every so many records."""


@dataclass(frozen=True)
class Judgement:
    """The judgement of a run.

    Arguments:
        findings: every finding in its latest state.
        records: how many records the run has.
        judged: how many of them were judged.
        is_of_training: whether they were judged while the run trained.
        not_judged: rules whose metrics are not in the run, with these metrics.
    """

    findings: list[Finding]
    records: int
    judged: int
    is_of_training: bool
    not_judged: dict[str, str] = field(default_factory=dict)


def judge(
    run: Run,
    options: Mapping[str, Mapping[str, Any] | bool] | None = None,
    again: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Judgement:
    """Return what was found in a run while it trained, or judge it now.

    A run is judged now if it was not judged before, if the rules have changed, or with ``again``. Of more than
    :data:`MOST_JUDGED` records, the rules judge only every second, third and so on; invariants are checked in all.

    Arguments:
        run: the run.
        options: changes by rule, see :class:`~ding_normmon.diagnose.Diagnosis`; with any it is judged now.
        again: judge it now in any case.
        progress: called now and then with how many records have been judged, and how many there are.

    Raises:
        ConfigurationError: a rule or an option that does not exist.
    """
    diagnosis = Diagnosis(run.tasks, options=options, figures=DECLARED, repeats=_repeats(run))
    total = _number_of_records(run)
    was_judged = run.rules == rules_of_today() and (_JUDGED in run.series or bool(run.findings))
    if was_judged and not options and not again:
        judged = len(run.series[_JUDGED].values) if _JUDGED in run.series else total
        findings = [*run.findings, *non_finite_curves(run, run.findings)]
        return Judgement(findings, total, judged, True, diagnosis.lacking(run.series))
    records = 0
    stride = -(-total // MOST_JUDGED) or 1
    for record in measured_records(run):
        if records % stride == 0:
            diagnosis.observe(record)
        else:
            diagnosis.check(record)
        records += 1
        if progress is not None and records % _PROGRESS == 0:
            progress(records, total)
    findings = list(diagnosis.findings)
    if not options:
        # The user's own rules are not known here, so their findings stay.
        known = {rule.name for rule in RULES}
        findings += [finding for finding in run.findings if finding.rule not in known]
    if any(rule.name == _NON_FINITE for rule in diagnosis.rules):
        findings += non_finite_curves(run, findings)
    return Judgement(findings, records, records, False, diagnosis.not_judged)


def diagnose(
    run: Run,
    rules: Sequence[Rule] = (),
    options: Mapping[str, Mapping[str, Any] | bool] | None = None,
) -> list[Finding]:
    """Apply the rules to a finished run; return every finding in its latest state."""
    diagnosis = Diagnosis(run.tasks, rules, options, DECLARED, _repeats(run))
    for record in measured_records(run):
        diagnosis.observe(record)
    return diagnosis.findings


def _repeats(run: Run) -> bool:
    """Return whether a run has no history: in event files a logger may have written a value many times."""
    return run.is_ended is None


_MEASURED = ('norm/', 'grad/', 'grad_local/', 'logits/', 'monitor/')


def nothing_measured(run: Run) -> str | None:
    """Return a sentence for a run in which the monitor wrote nothing; None for others."""
    if _is_measured(run.series) or run.incidents:
        return None
    return (
        f'{run.path}: the monitor wrote nothing here, only others did ({len(run.series)} curves); `normmon run` puts '
        f'it on a script, and what was lost is in its log'
    )


def _is_measured(names: Iterable[str]) -> bool:
    return any(name.startswith(_MEASURED) for name in names)


def _number_of_records(run: Run) -> int:
    """Return at how many iterations the monitor measured; in a run without its figures, at how many anybody did."""
    ours = [series.iterations for name, series in run.series.items() if name.startswith(_MEASURED)]
    measured = ours or [series.iterations for series in run.series.values()]
    return len(np.unique(np.concatenate(measured))) if measured else 0


def measured_records(run: Run) -> Iterator[Record]:
    """Yield the records of a run as the monitor made them, without the iterations at which only others wrote."""
    has_ours = _is_measured(run.series)
    for record in run.records():
        if not has_ours or _is_measured(record.scalars):
            yield record


def non_finite_curves(run: Run, known: Sequence[Finding] = ()) -> list[Finding]:
    """Return a finding for every iteration at which curves became NaN or infinite, and for every task of theirs.

    The monitor itself leaves out what is not finite and counts it; other programs draw it.

    Arguments:
        run: the run.
        known: findings that exist already; a finding of the same rule and iteration is not repeated.

    Example:
        >>> from pathlib import Path
        >>> from ding_normmon.runs.run import Series
        >>> curve = Series(np.arange(4), np.array([1.0, np.nan, np.nan, 2.0]), np.zeros(4))
        >>> finding, = non_finite_curves(Run(Path('run'), {'loss': curve}))
        >>> finding.sentence, finding.found, finding.cleared
        ('loss is NaN or infinite at 2 of 4 points.', 1, 3)
    """
    told = {finding.found for finding in known if finding.rule == _NON_FINITE}
    began: dict[tuple[int, int | None], list[str]] = {}
    for name, series in run.series.items():
        broken = ~np.isfinite(series.values)
        if broken.any():
            began.setdefault((int(series.iterations[broken.argmax()]), task_in(name)), []).append(name)
    findings = []
    for (iteration, task), names in sorted(began.items(), key=lambda entry: (entry[0][0], entry[0][1] or -1)):
        if iteration not in told:
            findings.append(_of_curves(run, iteration, task, names))
    return findings


def _of_curves(run: Run, iteration: int, task: int | None, names: list[str]) -> Finding:
    first = run.series[names[0]]
    broken = ~np.isfinite(first.values)
    more = f', and so are {len(names) - 1} more curves' if len(names) > 1 else ''
    whose = '' if task is None else f'Task {task} ({run.tasks.get(task, f"task {task}")}): '
    last = int(np.flatnonzero(broken)[-1])
    is_over = all(np.isfinite(run.series[name].values[-1]) for name in names)
    return Finding(
        _NON_FINITE,
        'error',
        iteration,
        iteration,
        f'{whose}{names[0]} is NaN or infinite at {int(broken.sum())} of {len(broken)} points{more}.',
        'Look at rewards, targets and losses in the iteration named; clip or drop what is not finite before the loss, '
        'and go back to the last checkpoint if weights are affected.',
        tasks=() if task is None else (task,),
        task_names=() if task is None else (run.tasks.get(task, f'task {task}'),),
        evidence={name: float((~np.isfinite(run.series[name].values)).sum()) for name in names[:20]},
        cleared=int(first.iterations[last + 1]) if is_over else None,
    )
