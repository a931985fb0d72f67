"""All declared figures of a monitor or of the package: looks up the declaration of a name and the metric it is from."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator

from ding_normmon.core.figure import Chart, Figure, other_chart
from ding_normmon.core.metric_names import of_all_tasks, task_in

__all__ = ['CATEGORIES', 'Figures']

CATEGORIES = (
    'Losses and returns',
    'Shared modules',
    'Heads across tasks',
    'Logits',
    'Embeddings',
    'Data',
    'Conflict',
    'Updates',
    'Plasticity',
    'Cost',
    'Health of the record',
    'Other figures',
)
"""Categories of charts in reading order; categories of users come before the last three."""

_MOST = 1 << 16
"""Number of looked-up names that are cached."""


class Figures:
    """Declared figures, each with the name of the metric that yields it.

    Arguments:
        declared: pairs of metric name and figure, in the order of the metric reference.

    Example:
        >>> figures = Figures([('norms', Figure('norm/{group}/_total_norm', 'L2 norm', 'weight'))])
        >>> figures.describe('norm/head_task3/_total_norm').unit, figures.owner('norm/head_task3/_total_norm')
        ('weight', 'norms')
        >>> figures.describe('episodes') is None
        True
    """

    def __init__(self, declared: Iterable[tuple[str, Figure]] = ()) -> None:
        self.declared = tuple(declared)
        self._found: dict[str, tuple[int, str, Figure] | None] = {}

    def __iter__(self) -> Iterator[Figure]:
        return (figure for _, figure in self.declared)

    def _entry(self, name: str) -> tuple[int, str, Figure] | None:
        stem = of_all_tasks(name)
        if stem not in self._found:
            if len(self._found) >= _MOST:
                self._found.clear()
            fitting = [
                (place, owner, figure) for place, (owner, figure) in enumerate(self.declared) if figure.matches(name)
            ]
            self._found[stem] = max(fitting, key=lambda entry: entry[2].literal_length, default=None)
        return self._found[stem]

    def describe(self, name: str) -> Figure | None:
        """Return the declaration of a figure; None if it has none, as for a user's own names."""
        entry = self._entry(name)
        return None if entry is None else entry[2]

    def owner(self, name: str) -> str | None:
        """Return the metric that declares a figure; None for undeclared names and names chosen by users."""
        entry = self._entry(name)
        return None if entry is None or entry[2].is_anybodys else entry[1]

    def taken(self, name: str, groups: Collection[str]) -> str | None:
        """Return the metric that certainly yields a figure of this name; None if that is not certain.

        Arguments:
            name: the full name.
            groups: keys of the model's parameter groups, the only values of ``{group}``.
        """
        figure = self.describe(name)
        if figure is None or figure.is_anybodys or '{path}' in figure.pattern:
            return None
        group = figure.placeholder(name, 'group')
        return self.owner(name) if group is None or group in groups else None

    def is_detail(self, name: str) -> bool:
        """Return whether a figure belongs to a single task and is shown only if there are few tasks."""
        if task_in(name) is None:
            return False
        figure = self.describe(name)
        return figure is not None and figure.prominence == 'detail'

    def is_headline(self, name: str) -> bool:
        """Return whether a figure comes first in its category."""
        figure = self.describe(name)
        return figure is not None and figure.prominence == 'headline'

    def place(self, name: str) -> tuple[Chart, tuple[int, int, int]]:
        """Return the chart of a figure and the chart's position among all charts."""
        entry = self._entry(name)
        if entry is None:
            chart = other_chart(name)
            return chart, (_category(chart), 2, len(self.declared))
        place, _, figure = entry
        chart = figure.place(name)
        return chart, (_category(chart), 0 if figure.prominence == 'headline' else 1, place)

    def rank(self, name: str) -> tuple[int, int]:
        """Return the position of a figure's chart among those of one task."""
        _, (_, headline, place) = self.place(name)
        return headline, place

    def declared_twice(self, groups: Iterable[str] = ()) -> Iterator[tuple[str, str, str]]:
        """Yield each name that two metrics declare differently, with these two metrics.

        Arguments:
            groups: keys of the model's parameter groups, the values of ``{group}``.
        """
        words = [{}, *({'group': group, 'head': group} for group in groups)]
        first: dict[str, tuple[str, Figure]] = {}
        for owner, figure in self.declared:
            # Names of single parameters and of users' signals are not known in advance.
            if figure.is_anybodys or '{path}' in figure.pattern:
                continue
            of_groups = '{group}' in figure.pattern or '{head}' in figure.pattern
            names = itertools.chain(*(figure.samples(known) for known in (words if of_groups else words[:1])))
            for name in dict.fromkeys(names):
                earlier, other = first.setdefault(name, (owner, figure))
                if earlier != owner and other != figure:
                    yield name, earlier, owner


def _category(chart: Chart) -> int:
    try:
        return CATEGORIES.index(chart.category) * 2
    except ValueError:
        return CATEGORIES.index('Cost') * 2 - 1
