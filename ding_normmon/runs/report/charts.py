"""Which charts a page has: what a run holds, arranged as the figures declare it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ding_normmon.core.metric_names import of_all_tasks, task_in, without_task
from ding_normmon.metrics import DECLARED
from ding_normmon.runs import Run

__all__ = ['Chart', 'Line', 'Section', 'lay_out']


@dataclass(frozen=True)
class Line:
    """One curve of a chart.

    Arguments:
        metric: its full name.
        task: global id of the task it is about; None where it is about all.
        label: what the legend calls it.
        low: metric of the lower edge of a band around it.
        high: metric of the upper edge.
        spread: metric of the standard deviation, for a second, darker band.
    """

    metric: str
    task: int | None
    label: str
    low: str | None = None
    high: str | None = None
    spread: str | None = None


@dataclass(frozen=True)
class Chart:
    """One chart.

    Arguments:
        key: unique; what links and findings refer to.
        title: what is drawn, in English; translated piece by piece by the page.
        lines: its curves.
        scale: charts of the same scale share one vertical axis range; empty for one of its own.
        is_small: whether it is one of several small ones side by side.
    """

    key: str
    title: str
    lines: tuple[Line, ...]
    scale: str = ''
    is_small: bool = False


@dataclass
class Section:
    """Charts that answer one question."""

    key: str
    charts: list[Chart] = field(default_factory=list)


_SECTIONS = {
    'Losses and returns': 'returns',
    'Shared modules': 'shared',
    'Heads across tasks': 'heads',
    'Each task': 'each',
    'Conflict': 'balance',
    'Logits': 'signals',
    'Embeddings': 'signals',
    'Data': 'signals',
    'Updates': 'updates',
    'Plasticity': 'plasticity',
    'Cost': 'cost',
    'Health of the record': 'cost',
    'Other figures': 'other',
}
"""Categories of charts, in the order in which people ask for them, and the key of their section."""

_BANDS = {f'{prefix}{word}': (prefix, word) for prefix in ('', 'norm_') for word in ('mean', 'min', 'max', 'std')}


def lay_out(runs: Sequence[Run]) -> list[Section]:
    """Return the sections of a page, without those that would be empty.

    Arguments:
        runs: the runs; charts are those of what any of them holds.
    """
    names = list(dict.fromkeys(name for run in runs for name in run.series))
    known = set(names)
    called = {name: task_id for run in runs for task_id, name in run.tasks.items()}
    sections = {key: Section(key) for key in _SECTIONS.values()}
    lines: dict[tuple[str, str], list[Line]] = {}
    small: dict[int, list[Line]] = {}
    keys: set[str] = set()
    for name in sorted(names, key=_order):
        figure, task = DECLARED.describe(name), task_in(name)
        place = DECLARED.place(name)[0]
        if figure is not None and '{path}' in figure.pattern and not name.endswith('/return'):
            # Single parameters, of which there are hundreds.
            continue
        if (stem := _band_of(name, known)) is not None:
            if name in (f'{stem}mean', f'{stem}norm_mean'):
                _add_band(name, stem, known, task, lines, place.category)
            continue
        if task is not None:
            if figure is None or not figure.of_task:
                continue
            if figure.prominence == 'headline':
                small.setdefault(task, []).append(Line(name, task, _label(name)))
        of_task = called.get(name.partition('/')[2].rpartition('/')[0]) if name.endswith('/return') else task
        label = _label(name) if of_task is None else f'task {of_task}'
        lines.setdefault((place.category, place.title), []).append(Line(name, of_task, label))
    for (category, title), found in lines.items():
        section = sections[_SECTIONS.get(category, 'other')]
        key = without_task(found[0].metric).removesuffix('/_total_norm').replace('/', '-')
        key = f'{key}-tasks' if key in keys else key
        keys.add(key)
        section.charts.append(Chart(key, title, tuple(found), is_small=section.key == 'other'))
    for task, found in sorted(small.items()):
        sections['each'].charts.append(Chart(f'task-{task}', f'{{task {task}}}', tuple(found), 'heads', is_small=True))
    return [section for section in sections.values() if section.charts]


def _order(name: str) -> tuple[tuple[int, int, int], str, int]:
    """Sort by place, and the figures of one chart by task."""
    task = task_in(name)
    return DECLARED.place(name)[1], of_all_tasks(name), -1 if task is None else task


def _band_of(name: str, known: set[str]) -> str | None:
    """Return the beginning of the names that a figure makes a band with; None where there is none."""
    stem, slash, statistic = name.rpartition('/')
    if statistic not in _BANDS:
        return None
    prefix, _ = _BANDS[statistic]
    found = all(f'{stem}{slash}{prefix}{word}' in known for word in ('mean', 'min', 'max'))
    return f'{stem}{slash}' if found else None


def _add_band(
    mean: str, stem: str, known: set[str], task: int | None, lines: dict[tuple[str, str], list[Line]], category: str
) -> None:
    """Draw what has a mean, a minimum and a maximum; of single tasks the means side by side."""
    title = without_task(stem).rstrip('/')
    if task is not None:
        lines.setdefault((category, f'{title}: mean'), []).append(Line(mean, task, f'task {task}'))
        return
    low, high, spread = (mean.removesuffix('mean') + word for word in ('min', 'max', 'std'))
    band = Line(mean, None, 'mean', low, high, spread if spread in known else None)
    lines.setdefault((category, title), []).append(band)


def _label(name: str) -> str:
    """Return what a legend calls one of several figures of a chart: the part in which they differ.

    >>> _label('norm/encoder/_total_norm'), _label('plasticity/encoder/dormant_tau0.1'), _label('agreement/rate')
    ('encoder', 'encoder dormant_tau0.1', 'rate')
    """
    family, _, rest = without_task(name).partition('/')
    return (rest or family).replace('/_total_norm', '').replace('/', ' ')
