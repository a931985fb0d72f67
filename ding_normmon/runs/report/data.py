"""A run, or several beside each other, as the plain values that the page draws."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ding_normmon.core.finding import Finding
from ding_normmon.core.incident import Incident
from ding_normmon.core.plain_text import plain
from ding_normmon.destinations.tensorboard.charts import tag_of
from ding_normmon.diagnose.rules import RULES
from ding_normmon.diagnose.wording import LANGUAGES, advice_of, sentence_of
from ding_normmon.runs import Run, Series
from ding_normmon.runs.judge import Judgement, judge
from ding_normmon.runs.report.changes import Change
from ding_normmon.runs.report.curves import (
    Columns,
    deviations,
    finite,
    over_iterations,
    plain_matrices,
    stretches,
)
from ding_normmon.runs.report.layout import EACH_TASK, Chart, chinese, figures_of, lay_out
from ding_normmon.runs.state import state_of
from ding_normmon.runs.strict_json import dumps

__all__ = ['page_data']

_OF_ONE_RUN = ('seed', 'exp_name')
"""Keys of a configuration in which the runs of one experiment differ."""

_DENSE_CHARTS = 6
"""Charts of an incident."""

_FIGURES = {
    'return': ('collect/{name}/mean_return', 'collect/{name}/return'),
    'evaluation': ('eval/{name}/return',),
    'random': ('random_policy/{name}/return',),
    'share': ('conflict/encoder_task{task}/share', 'conflict/transformer_task{task}/share'),
}
"""Columns of the table of tasks, each with the metrics that may hold it."""


def page_data(runs: Sequence[Run], changes: Sequence[Change] = (), again: bool = False) -> dict[str, Any]:
    """Return what the page of one run, or of several over each other, draws.

    Everything is plain values that JSON has words for, and every text of unknown origin can be shown as it is.

    Arguments:
        runs: the runs; today's rules are applied to those that nobody has judged, or by other rules.
        changes: what differs most between them.
        again: apply today's rules in any case.

    Returns:
        ``charts``: what is drawn where; ``sections``: their headings; ``runs``: for each run its curves, matrices,
        findings and what is known about it; ``rules``: the names of all rules; ``changes``.
    """
    shown = [over_iterations(run) for run in runs]
    charts = lay_out(shown)
    names = dict.fromkeys(
        name for chart in charts for line in chart.lines for name in (line.metric, line.low, line.high) if name
    )
    translated = chinese()['categories']
    experiments = [_experiment(run.configuration) for run in runs]
    return {
        'charts': [_harmless(chart.plain()) for chart in charts],
        'sections': [
            {'category': plain(name), 'title': {'en': plain(name), 'zh': translated.get(name, plain(name))}}
            for name in dict.fromkeys(chart.category for chart in charts)
        ],
        'each_task': EACH_TASK,
        'rules': {rule.name: {'en': rule.name, 'zh': chinese()['rules'].get(rule.name, rule.name)} for rule in RULES},
        'runs': [
            {**_run(drawn, judge(run, again=again), names), 'experiment': experiments.index(experiment)}
            for drawn, run, experiment in zip(shown, runs, experiments, strict=True)
        ],
        'changes': [_harmless(vars(change)) for change in changes],
    }


def _run(run: Run, judgement: Judgement, names: Iterable[str]) -> dict[str, Any]:
    columns = Columns(run)
    state = state_of(run)
    times = [time for series in run.series.values() for time in (series.times[0], series.times[-1])]
    steps = columns.steps
    return {
        'name': plain(run.name),
        'tasks': {str(task): plain(name, 200) for task, name in run.tasks.items()},
        'about': {
            'state': state.name,
            'silent': state.silent,
            'began': float(min(times, default=0.0)),
            'seconds': float(max(times, default=0.0) - min(times, default=0.0)),
            'iterations': max((int(series.iterations[-1]) for series in run.series.values()), default=0),
            'steps': None if steps is None else int(steps.values[-1]),
            'seed': _harmless(run.configuration.get('seed')),
            'ranks': _harmless(run.about.get('ranks')),
            'versions': _harmless(run.about.get('versions')),
        },
        'configuration': _harmless(run.configuration),
        'judged': judgement.judged,
        'records': judgement.records,
        'not_judged': judgement.not_judged,
        'findings': [_finding(finding) for finding in judgement.findings],
        'figures': {str(task): _figures(run, task, name) for task, name in run.tasks.items()},
        'deviations': deviations(run, figures_of([run])),
        'series': columns.all_of(names),
        'axes': columns.axes,
        'matrices': plain_matrices(run.matrices),
        'incidents': [_incident(run, incident, judgement.findings) for incident in run.incidents],
        'warnings': [plain(warning) for warning in run.warnings],
    }


def _figures(run: Run, task: int, name: str) -> dict[str, Any]:
    """Return the figures of one task in the table: those of which the run has a point, the newest of each."""
    found: dict[str, Any] = {}
    for key, metrics in _FIGURES.items():
        names = [metric.format(name=spelt, task=task) for metric in metrics for spelt in (name, tag_of(name))]
        series = [run.series[metric] for metric in names if metric in run.series]
        newest = [float(one.values[-1]) for one in series if np.isfinite(one.values[-1])]
        if newest:
            found[key] = newest[0] if key != 'share' else float(np.mean(newest))
        if key == 'return' and series:
            found['course'] = finite(stretches(series[0].values, 40)[1])
    return found


def _finding(finding: Finding) -> dict[str, Any]:
    """Return a finding, what it says by language."""
    return {
        'rule': plain(finding.rule, 100),
        'title': {'en': plain(finding.rule, 100), 'zh': chinese()['rules'].get(finding.rule, plain(finding.rule, 100))},
        'severity': finding.severity,
        'since': finding.since,
        'found': finding.found,
        'cleared': finding.cleared,
        'sentence': {language: plain(sentence_of(finding, language)) for language in LANGUAGES},
        'advice': {language: plain(advice_of(finding, language)) for language in LANGUAGES},
        'tasks': list(finding.tasks),
        'group': finding.group,
        'metrics': list(finding.evidence),
    }


_NOT_FINITE = ' is NaN or infinite.'
_DEATH = re.compile(
    r'The run ended (?:after (?P<exception>.*)|without closing: it was killed, or crashed); '
    r'the newest step in a black box is iteration (?P<newest>\d+)\.',
    re.DOTALL,
)


def _reason(incident: Incident, findings: Iterable[Finding]) -> dict[str, str]:
    """Return what opened an incident by language: a finding, a figure that is not finite, an exception or a death."""
    reason, chinese_reason = incident.reason, incident.reason
    found = next((finding for finding in findings if finding.sentence == reason), None)
    died = _DEATH.fullmatch(reason)
    if found is not None:
        chinese_reason = sentence_of(found, 'zh')
    elif incident.kind == 'non-finite' and reason.endswith(_NOT_FINITE):
        chinese_reason = f'{reason.removesuffix(_NOT_FINITE)} 为 NaN 或无穷。'
    elif died:
        how = f'因 {died["exception"]} 结束' if died['exception'] else '没有正常关闭就结束了（进程被杀死或崩溃）'
        chinese_reason = f'训练{how}；黑匣子中最新的一步是迭代 {died["newest"]}。'
    return {'en': reason, 'zh': chinese_reason}


def _incident(run: Run, incident: Incident, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return an incident with charts of what left its level, over the watched steps around it."""
    window = incident.window
    clock = np.zeros(len(window.iterations))
    series = {}
    for column, name in enumerate(window.names):
        measured = ~np.isnan(window.values[:, column])
        if measured.any():
            points = window.iterations[measured], window.values[measured, column], clock[measured]
            series[name] = Series(*points)
    dense = Run(run.path, series, tasks=run.tasks)
    columns = Columns(dense)
    order = [departure.metric for departure in incident.first]

    def place(chart: Chart) -> int:
        return min((order.index(line.metric) for line in chart.lines if line.metric in order), default=len(order))

    laid_out = sorted((chart for chart in lay_out([dense]) if chart.category != EACH_TASK), key=place)
    charts = ([chart for chart in laid_out if place(chart) < len(order)] or laid_out)[:_DENSE_CHARTS]
    return _harmless(
        {
            'number': incident.number,
            'opened': incident.opened,
            'since': incident.since,
            'kind': incident.kind,
            'reason': _reason(incident, [*run.findings, *findings]),
            'tasks': [] if incident.task is None else [incident.task],
            'order': [dict(vars(departure)) for departure in incident.first],
            'charts': [chart.plain() for chart in charts],
            'series': columns.all_of(name for chart in charts for line in chart.lines for name in vars(line).values()),
            'axes': columns.axes,
        }
    )  # fmt: skip


def _experiment(configuration: Mapping[str, Any]) -> str:
    """Return a text that is the same for runs that differ in their seeds and names only."""
    kept = {key: value for key, value in configuration.items() if key not in _OF_ONE_RUN}
    return dumps(kept)


def _harmless(value: Any, depth: int = 12) -> Any:
    """Return a value as JSON has it, every text in it without control characters."""
    if isinstance(value, Mapping):
        return {plain(key, 300): _harmless(entry, depth - 1) for key, entry in value.items()} if depth else '…'
    if isinstance(value, (list, tuple)):
        return [_harmless(entry, depth - 1) for entry in value] if depth else '…'
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return plain(value)
