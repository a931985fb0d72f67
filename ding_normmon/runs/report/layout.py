"""Which charts a page has: what a run holds, arranged and scaled as the figures declare it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

from ding_normmon.core.figure import Figure, Prominence
from ding_normmon.core.figures import Figures
from ding_normmon.core.metric_names import of_all_tasks, task_in, without_task
from ding_normmon.destinations.tensorboard.charts import tag_of
from ding_normmon.metrics import DECLARED
from ding_normmon.runs import Run

__all__ = ['EACH_TASK', 'Chart', 'Line', 'chinese', 'figures_of', 'lay_out', 'title_in_chinese']

EACH_TASK = 'Each task'
"""Category of the charts that draw the headlines of one task together; it follows theirs."""

_MOST = 2000
"""Charts of a page, and curves of a chart; a run with more was made to fill the memory of whoever looks at it."""

_PROMINENCES = get_args(Prominence)


@dataclass(frozen=True)
class Line:
    """One curve of a chart.

    Arguments:
        metric: its full name.
        task: global id of its task; None if it is of no single task.
        label: what it is called beside the other curves of its chart.
        low: metric of the lower edge of the band around it; empty for none.
        high: metric of the upper edge.
    """

    metric: str
    task: int | None
    label: str
    low: str = ''
    high: str = ''


@dataclass(frozen=True)
class Chart:
    """One chart.

    Arguments:
        key: what links refer to; no two charts have the same.
        category: heading of its section, in English.
        title: by language; ``{task 3}`` stands for the name of task 3.
        lines: its curves, at least one.
        scale: ``log`` or ``linear``.
        prominence: of its most prominent figure; details are folded away at first.
        about: definition and unit of its figures, and what a bad value means, by language.
    """

    key: str
    category: str
    title: Mapping[str, str]
    lines: tuple[Line, ...]
    scale: str
    prominence: str
    about: Mapping[str, str] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        lines = [[line.metric, line.task, line.label, line.low, line.high] for line in self.lines]
        return {**vars(self), 'title': dict(self.title), 'about': dict(self.about), 'lines': lines}


def figures_of(runs: Sequence[Run]) -> Figures:
    """Return the declarations of the package's figures and of the runs' own."""
    own = dict.fromkeys(entry for run in runs for entry in run.figures.declared)
    return Figures([*DECLARED.declared, *own]) if own else DECLARED


def lay_out(runs: Sequence[Run]) -> list[Chart]:
    """Return the charts of everything that any of the runs holds, in reading order."""
    declared = figures_of(runs)
    known = {name for run in runs for name in run.series}
    # Returns carry the name of their task, not its id, as TensorBoard spells it.
    named = {spelt: task for run in runs for task, name in run.tasks.items() for spelt in (name, tag_of(name))}
    found: dict[tuple[str, str], list[Line]] = {}
    of_task: dict[int, list[Line]] = {}
    drawn: dict[str, None] = {}
    for name in sorted(known, key=lambda name: _order(declared, name)):
        figure, task, edges = declared.describe(name), task_in(name), _edges(name, known)
        if figure is not None and '{group}/{path}' in figure.pattern:
            continue  # Single parameters, of which there are hundreds.
        if task is None and edges is None:
            continue  # Drawn as an edge of its mean.
        place = declared.place(name)[0]
        whose = task if task is not None else named.get(name.partition('/')[2].rpartition('/')[0])
        line = Line(name, whose, _label(name), *(edges or ()) if task is None else ())
        found.setdefault((place.category, place.title), []).append(line)
        if task is not None and figure is not None and figure.of_task and figure.prominence == 'headline':
            of_task.setdefault(task, []).append(line)
            drawn[figure.of_task] = None
    charts = [_chart(declared, category, title, lines[:_MOST]) for (category, title), lines in found.items()]
    tasks = [
        Chart(f'task-{task}', EACH_TASK, _title_of_task(task, list(drawn)), tuple(_briefly(lines)), 'log', 'main')
        for task, lines in sorted(of_task.items())
    ]
    theirs = {place.category for lines in of_task.values() for place in [declared.place(lines[0].metric)[0]]}
    behind = max((i + 1 for i, chart in enumerate(charts) if chart.category in theirs), default=len(charts))
    return list(_distinct([*charts[:behind], *tasks, *charts[behind:]][:_MOST]))


def _chart(figures: Figures, category: str, title: str, lines: Sequence[Line]) -> Chart:
    """Return the chart of figures with the same declared place."""
    first = lines[0].metric
    described = [(figures.describe(line.metric), line.metric) for line in lines]
    declared = [(figure, metric) for figure, metric in described if figure is not None]
    is_log = len(declared) == len(described) and all(f.scale == 'log' and not f.is_signed(m) for f, m in declared)
    prominences = [_prominence(figure, metric) for figure, metric in described]
    kinds = list(dict.fromkeys(figure for figure, _ in declared))
    return Chart(
        without_task(first).removesuffix('/_total_norm').replace('/', '-'),
        category,
        {'en': title, 'zh': title_in_chinese(first, title)},
        tuple(_briefly(lines)),
        'log' if is_log else 'linear',
        min(prominences, key=_PROMINENCES.index),
        {language: '\n'.join(_about(figure, language) for figure in kinds) for language in ('en', 'zh')},
    )


def _title_of_task(task: int, drawn: Sequence[str]) -> dict[str, str]:
    """Return the title of the chart of one task, with what is drawn in it where that is one thing."""
    what = drawn[0] if len(drawn) == 1 else ''
    chinese_what = chinese()['titles'].get(what, what)
    return {
        'en': f'{{task {task}}}' + (f': {what[0].lower()}{what[1:]}' if what else ''),
        'zh': f'{{task {task}}}' + (f'：{chinese_what}' if what else ''),
    }


def _briefly(lines: Sequence[Line]) -> list[Line]:
    """Return curves without the words that all of their labels have.

    >>> [line.label for line in _briefly([Line('a', None, 'head_value mean'), Line('b', None, 'head_value std')])]
    ['mean', 'std']
    """
    words = [line.label.split(' ') for line in lines]
    shared = set(words[0]).intersection(*words[1:]) if len(words) > 1 else set()
    labels = [' '.join(word for word in of_line if word not in shared) for of_line in words]
    if not all(labels):
        return list(lines)
    return [replace(line, label=label) for line, label in zip(lines, labels, strict=True)]


def _about(figure: Figure, language: str) -> str:
    """Return a figure's definition, its unit, and what a bad value means."""
    definition, unit, bad = figure.definition, figure.unit, figure.bad_value
    if language == 'zh':
        known = _chinese_figures()
        definition, bad = known['figures'].get(figure.pattern, (definition, bad))
        unit = known['units'].get(unit, unit)
        text = f'{figure.pattern}：{definition}（{unit}）。' + (f'异常值的含义——{bad}。' if bad else '')
    else:
        text = f'{figure.pattern}: {definition} ({unit}).' + (f' A bad value: {bad}.' if bad else '')
    # Links of the metric reference, as plain text.
    return re.sub(r'\[([^\]]+)\]\([^)]*\)', r'\1', text)


def _prominence(figure: Figure | None, metric: str) -> str:
    """Return how prominent a figure is: of one task's statistics only the mean and the largest are main figures."""
    if figure is None:
        return 'main'
    statistic = metric.rpartition('/')[2].removeprefix('norm_')
    return 'detail' if task_in(metric) is not None and statistic in ('std', 'min', 'max') else figure.prominence


def _distinct(charts: Sequence[Chart]) -> Iterator[Chart]:
    """Yield the charts, those of the same key numbered."""
    seen: dict[str, int] = {}
    for chart in charts:
        number = seen[chart.key] = seen.get(chart.key, 0) + 1
        yield chart if number == 1 else replace(chart, key=f'{chart.key}-{number}')


def _order(figures: Figures, name: str) -> tuple[tuple[int, int, int], str, int]:
    """Sort by place, and the figures of one chart by task."""
    task = task_in(name)
    return figures.place(name)[1], of_all_tasks(name), -1 if task is None else task


def _edges(name: str, known: set[str]) -> tuple[str, ...] | None:
    """Return the names of the band around a figure, none where it has no band, None where it is an edge itself."""
    stem, _, statistic = name.rpartition('/')
    prefix = 'norm_' if statistic.startswith('norm_') else ''
    mean, low, high = (f'{stem}/{prefix}{word}' for word in ('mean', 'min', 'max'))
    if not {mean, low, high} <= known or statistic.endswith('abs_max'):
        return ()
    return (low, high) if name == mean else None if name in (low, high) else ()


def _label(name: str) -> str:
    """Return what one of several figures of a chart is called: the part in which they differ.

    >>> _label('norm/encoder/_total_norm'), _label('plasticity/encoder/dormant_tau0.1'), _label('agreement/rate')
    ('encoder', 'encoder dormant_tau0.1', 'rate')
    """
    family, _, rest = without_task(name).partition('/')
    return (rest or family).replace('/_total_norm', '').replace('/', ' ')


@cache
def _chinese_figures() -> dict[str, dict[str, Any]]:
    loaded: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / 'chinese_figures.json').read_text('utf-8'))
    return loaded


@cache
def chinese() -> dict[str, dict[str, str]]:
    """Return what the page says in Chinese: titles of charts by their declared English ones, words, categories."""
    loaded: dict[str, dict[str, str]] = json.loads((Path(__file__).parent / 'chinese.json').read_text('utf-8'))
    return loaded


def title_in_chinese(name: str, title: str) -> str:
    """Return the title of a figure's chart in Chinese, or the English one where the figure is not declared.

    >>> title_in_chinese('norm/x_token_task3/mean', 'x_token: norm_mean')
    'x_token 范数的均值'
    """
    figure = DECLARED.describe(name)
    template = figure.template(name) if figure is not None else None
    if figure is None or template is None or template.title not in chinese()['titles']:
        return title
    words = {key: _word_in_chinese(word) for key, word in figure.words(name).items()}
    return chinese()['titles'][template.title].format(**words)


def _word_in_chinese(word: str) -> str:
    known = chinese()['words']
    stem, tau, threshold = word.partition('_tau')
    return known.get(word) or (f'{known[stem]} τ={threshold}' if tau and stem in known else word)
