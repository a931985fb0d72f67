"""Arranges figures into charts and charts into categories, for any dashboard."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from ding_normmon.core.figures import Figures
from ding_normmon.core.metric_names import ANY_TASK, of_all_tasks, task_in, without_task

__all__ = ['Category', 'Chart', 'arrange', 'tag_of', 'title_of_task']

_NAMES_LENGTH = 100
"""Most characters of task names in every title; if there are more, the first chart of a category lists them."""

_ALL_NAMES_LENGTH = 500
"""Most characters of task names in that first title."""

_BANDS = (
    ('mean', 'min', 'max'),
    ('norm_mean', 'norm_min', 'norm_max'),
)
"""Statistics that form a band: its line, lower edge and upper edge."""

_RETURNS = re.compile(r'(collect|eval)/(.+)/return')


@dataclass(frozen=True)
class Chart:
    """Curves on common axes.

    Arguments:
        title: title, with the tasks' names if they are few.
        expression: regular expression for the figures, anchored at both ends; None for a band.
        band: names of the band's line, lower edge and upper edge.
    """

    title: str
    expression: str | None = None
    band: tuple[str, str, str] | None = None


@dataclass(frozen=True)
class Category:
    """Charts under one heading.

    Arguments:
        title: the heading.
        charts: in reading order.
    """

    title: str
    charts: tuple[Chart, ...]


def tag_of(name: str) -> str:
    """Return the tag that tensorboardX makes of a name; it replaces characters that are not allowed.

    >>> tag_of('eval/Montezuma: revenge/return')
    'eval/Montezuma__revenge/return'
    """
    return re.sub(r'[^-/\w.]', '_', name).lstrip('/')


def title_of_task(task_id: int, name: str) -> str:
    """Return the heading of one task.

    >>> title_of_task(3, 'Pong'), title_of_task(3, 'task 3')
    ('Task 3: Pong', 'Task 3')
    """
    name = ' '.join(name.split())
    return f'Task {task_id}' if name in ('', f'task {task_id}') else f'Task {task_id}: {name}'


def arrange(names: Collection[str], tasks: Mapping[int, str], figures: Figures) -> list[Category]:
    """Arrange figures into charts; every figure gets a chart, and no chart is empty.

    The first categories show shared parts and the tasks side by side; then one category per task follows.

    Arguments:
        names: names of the figures that were measured.
        tasks: names of the tasks by global task id.
        figures: declarations of the figures, with their charts.

    Example:
        >>> from ding_normmon.core.figure import Chart as Place, Figure
        >>> heads = Place('Heads across tasks', '{group}: gradient norm')
        >>> figure = Figure('grad/{group}/_total_norm', '', '', task_chart=heads, of_task='Norms')
        >>> figures = Figures([('norms', figure)])
        >>> names = [f'grad/head_value_task{task}/_total_norm' for task in (0, 1)]
        >>> for category in arrange(names, {0: 'Pong', 1: 'Boxing'}, figures):
        ...     for chart in category.charts:
        ...         print(category.title, '|', chart.title, '|', chart.expression)
        Heads across tasks | head_value: gradient norm (0 Pong, 1 Boxing) | ^grad/head_value_task\\d+/_total_norm$
        Task 0: Pong | Norms | ^grad/head_value_task0/_total_norm$
        Task 1: Boxing | Norms | ^grad/head_value_task1/_total_norm$
    """
    of_task: dict[int | None, list[str]] = {}
    for name in sorted(names):
        of_task.setdefault(task_in(name), []).append(name)
    named = {task: tasks.get(task, f'task {task}') for task in sorted(task for task in of_task if task is not None)}
    categories = list(_side_by_side(of_task, named, figures))
    returns = {match.group(2) for name in names if (match := _RETURNS.fullmatch(name))}
    for task, name in named.items():
        charts = tuple(_of_one_task(of_task[task], figures, tag_of(name) if tag_of(name) in returns else None))
        categories.append(Category(title_of_task(task, name), charts))
    return categories


def _side_by_side(
    of_task: Mapping[int | None, list[str]], named: Mapping[int, str], figures: Figures
) -> Iterator[Category]:
    """Yield the categories that show shared parts and the tasks side by side."""
    stems = {of_all_tasks(name): name for of_one in of_task.values() for name in of_one}
    ranks: dict[tuple[str, str], tuple[int, ...]] = {}
    drawn: dict[tuple[str, str], list[str]] = {}
    for stem, name in stems.items():
        chart, rank = figures.place(name)
        key = chart.category, _title(chart.title, named if ANY_TASK in stem else {})
        drawn.setdefault(key, []).append(stem)
        ranks[key] = min(rank, ranks.get(key, rank))
    bands: dict[str, list[Chart]] = {}
    for band in _bands(of_task.get(None, [])):
        assert band.band is not None
        bands.setdefault(figures.place(band.band[0])[0].category, []).append(band)
    ordered = sorted(drawn, key=lambda key: (ranks[key], key[1]))
    key_of_tasks = _key(named) if len(_key(named)) <= _ALL_NAMES_LENGTH else ''
    for category in dict.fromkeys(category for category, _ in ordered):
        lines = [Chart(key[1], _expression(drawn[key])) for key in ordered if key[0] == category]
        first = next((place for place, line in enumerate(lines) if line.title.endswith(_EVERY_TASK)), None)
        if first is not None and key_of_tasks:
            title = lines[first].title.removesuffix(_EVERY_TASK)
            lines[first] = replace(lines[first], title=f'{title} ({key_of_tasks})')
        yield Category(category, (*bands.get(category, []), *lines))


def _of_one_task(own: list[str], figures: Figures, name_with_return: str | None) -> Iterator[Chart]:
    """Yield the charts of one task."""
    if name_with_return is not None:
        yield Chart('Return', rf'^(?:collect|eval)/{re.escape(name_with_return)}/return$')
    charts: dict[str, list[str]] = {}
    for name in sorted(own, key=figures.rank):
        figure = figures.describe(name)
        if figure is not None and figure.of_task:
            charts.setdefault(figure.of_task, []).append(name)
    for title, chosen in charts.items():
        yield Chart(title, _expression(chosen))
    yield from _bands(own)


def _bands(names: list[str]) -> Iterator[Chart]:
    """Yield a band for every signal with a mean, a minimum and a maximum."""
    known = set(names)
    for name in names:
        stem, _, statistic = name.rpartition('/')
        for line, lower, upper in _BANDS:
            if statistic == line and f'{stem}/{lower}' in known and f'{stem}/{upper}' in known:
                band = (name, f'{stem}/{lower}', f'{stem}/{upper}')
                yield Chart(f'{without_task(stem)}: mean, minimum and maximum', band=band)


_EVERY_TASK = ' (every task)'


def _title(title: str, named: Mapping[int, str]) -> str:
    if not named:
        return title
    key = _key(named)
    return f'{title} ({key})' if key and len(key) <= _NAMES_LENGTH else f'{title}{_EVERY_TASK}'


def _key(named: Mapping[int, str]) -> str:
    """Return the ids of the tasks with their names; empty if no name is known.

    >>> _key({0: 'MiniGrid-Empty-8x8-v0', 1: 'MiniGrid-FourRooms-v0', 2: 'task 2'})
    '0 Empty-8x8, 1 FourRooms, 2'
    """
    known = {task: ' '.join(name.split()) for task, name in named.items() if name != f'task {task}'}
    short = dict(zip(known, _without_common(list(known.values())), strict=True))
    return ', '.join(f'{task} {short[task]}' if task in short else str(task) for task in named) if known else ''


_PREFIX_WORDS = re.compile(r'[^-_/:. ]*[-_/:. ]*')
_SUFFIX_WORDS = re.compile(r'[^A-Za-z0-9]*(?:[A-Z]*[a-z0-9]+|[A-Z]+)|[^A-Za-z0-9]+')


def _without_common(names: list[str]) -> list[str]:
    """Return names without the words at both ends that all of them share.

    >>> _without_common(['MiniGrid-Empty-8x8-v0', 'MiniGrid-FourRooms-v0']), _without_common(['Pong', 'Boxing'])
    (['Empty-8x8', 'FourRooms'], ['Pong', 'Boxing'])
    >>> _without_common(['PongNoFrameskip-v4', 'BoxingNoFrameskip-v4'])
    ['Pong', 'Boxing']
    """
    for expression, end in ((_PREFIX_WORDS, 0), (_SUFFIX_WORDS, -1)):
        words = [[word for word in expression.findall(name) if word] for name in names]
        while len(names) > 1 and min(map(len, words)) > 1 and len({one[end] for one in words}) == 1:
            for one in words:
                del one[end]
        names = [''.join(one) for one in words]
    return names


def _expression(stems: Iterable[str]) -> str:
    """Return the regular expression that matches exactly these figures; ``_task{i}`` matches any task."""
    escaped = [re.escape(stem).replace(re.escape(ANY_TASK), r'_task\d+') for stem in stems]
    return f'^{escaped[0]}$' if len(escaped) == 1 else f'^(?:{"|".join(escaped)})$'
