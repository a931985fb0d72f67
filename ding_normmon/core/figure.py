"""The declaration of a figure: what a name that the monitor writes means."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from ding_normmon.core.metric_names import ANY_TASK, of_all_tasks, task_in

__all__ = ['STAGES', 'Chart', 'Figure', 'Kind', 'Prominence', 'Stage', 'other_chart']

Kind = Literal['level', 'share', 'rate', 'cosine', 'ratio', 'count', 'flag', 'cost']
"""Kind of a figure: a level has a unit and no natural limits; a share (of a whole) and a rate (of cases) lie between 0
and 1, a cosine between -1 and 1; a ratio compares two levels; a flag is present only if it is 1."""

_KIND_OF_UNIT: Mapping[str, Kind] = {
    **{'share': 'share', 'cosine': 'cosine', 'ratio': 'ratio', 'flag': 'flag', 'ms': 'cost', 'bytes': 'cost'},
    **dict.fromkeys(('count', 'ranks', 'tensors', 'steps', 'groups', 'modules', 'samples', 'numbers', 'bits'), 'count'),
}

Stage = Literal['', 'data', 'target', 'loss', 'output', 'representation', 'gradient', 'update', 'weight']
"""Where in a learner step a figure arises. What goes wrong at one stage is seen at the later ones too."""

STAGES: tuple[Stage, ...] = ('data', 'target', 'loss', 'output', 'representation', 'gradient', 'update', 'weight')
"""From causes to effects."""

Prominence = Literal['headline', 'main', 'detail']
"""A headline comes first in its category, and a report draws it again for each task. Dashboards show the main figures
of every task, and the details of single tasks only if there are few tasks."""

_PLACEHOLDERS = {'i': r'\d+', 't': r'\d+(?:\.\d+)?(?:e-?\d+)?', 'n': r'\d+', 'path': r'.+', 'signal': r'.+?'}
"""Regular expressions of special placeholders; any other placeholder stands for a part of a name without a slash."""

_TOKEN = re.compile(r'\{([^{}]*)\}|(\[)|(\])|([^{}\[\]]+)')
_NO_WORDS: Mapping[str, str] = {}
_NEVER_NEGATIVE = ('std', 'norm_std', 'abs_max')


@dataclass(frozen=True)
class Chart:
    """Where a dashboard draws a figure.

    Arguments:
        category: heading of the chart's category.
        title: title of the chart; figures with the same category and title share a chart. It may contain the
            placeholders of the figure's pattern, and ``{signal}`` and ``{statistic}``, the middle and the last part of
            the name.
    """

    category: str
    title: str


@dataclass(frozen=True)
class Figure:
    """The meaning of one name, or of all names that match a pattern.

    A metric declares every name that it yields. The metric reference, the layout and the selection of dashboards, the
    charts of reports and the rules read only these declarations.

    Arguments:
        pattern: the name, with ``{i}`` for the global task id, ``{group}`` and the like for parts of the model,
            ``{mean,std}`` for any of several words, and ``[...]`` for optional parts.
        definition: what is computed.
        unit: its unit.
        hook_point: when it is measured; empty if this is described elsewhere.
        bad_value: what a bad value means; empty if no value is bad in itself.
        section: heading of its section in the metric reference.
        kind: what kind of number it is; by default what the unit says (a share, a cosine, a ratio, a flag, a cost or a
            count of something), else a level.
        signed: whether it may be negative; a cosine always may.
        stage: where in a learner step it arises; rules judge every figure that says so.
        scale: scale on which it is drawn.
        chart: chart of the figure; under *Other figures* by default.
        task_chart: chart that shows the per-task figures side by side; ``chart`` by default.
        of_task: title of its chart in the category of a single task; empty for none.
        prominence: how prominent it is.
        is_listed: whether the metric reference has a row for it; special cases of another row have none.

    Example:
        >>> figure = Figure('grad/{head}[_task{i}]/{mean,std}', 'over something', 'loss / weight', scale='log')
        >>> figure.matches('grad/head_value_task12/std'), figure.matches('grad/head_value/max')
        (True, False)
    """

    pattern: str
    definition: str
    unit: str
    hook_point: str = ''
    bad_value: str = ''
    section: str = 'Further figures'
    kind: Kind | Literal[''] = ''
    signed: bool = False
    stage: Stage = ''
    scale: Literal['linear', 'log'] = 'linear'
    chart: Chart | None = None
    task_chart: Chart | None = None
    of_task: str = ''
    prominence: Prominence = 'main'
    is_listed: bool = True

    def __post_init__(self) -> None:
        kind = self.kind or _KIND_OF_UNIT.get(self.unit, 'level')
        object.__setattr__(self, 'kind', kind)
        object.__setattr__(self, 'signed', self.signed or kind == 'cosine')

    @cached_property
    def _tokens(self) -> list[tuple[str, str, str, str]]:
        return _TOKEN.findall(self.pattern)

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        parts, named = [], set()
        for braces, opening, closing, literal in self._tokens:
            if not braces:
                parts.append('(?:' if opening else ')?' if closing else re.escape(literal))
            elif ',' in braces:
                parts.append(f'(?:{"|".join(map(re.escape, braces.split(",")))})')
            else:
                name = '' if braces in named else f'?P<{braces}>'
                named.add(braces)
                parts.append(f'({name}{_PLACEHOLDERS.get(braces, "[^/]+?")})')
        return re.compile(''.join(parts))

    @cached_property
    def literal_length(self) -> int:
        """Number of literal characters; if several declarations match a name, the one with the most applies."""
        required = re.sub(r'\[.*?\]', '', self.pattern)
        return sum(
            len(literal) if literal else min(map(len, braces.split(','))) if ',' in braces else 0
            for braces, _, _, literal in _TOKEN.findall(required)
        )

    @property
    def is_anybodys(self) -> bool:
        """Whether it begins with a placeholder, so that it describes names chosen by users."""
        return self.pattern.startswith('{signal}')

    def matches(self, name: str) -> bool:
        """Return whether a name matches this declaration."""
        return self._expression.fullmatch(name) is not None

    def placeholder(self, name: str, which: str) -> str | None:
        """Return the value of a placeholder in a name; None if the pattern has no such placeholder.

        >>> Figure('grad/{group}/_total_norm', '', '').placeholder('grad/head_task3/_total_norm', 'group')
        'head_task3'
        """
        match = self._expression.fullmatch(name)
        return None if match is None else match.groupdict().get(which)

    def is_signed(self, name: str) -> bool:
        """Return whether the figure of that name may be negative; a standard deviation or absolute maximum never is."""
        return self.signed and name.rpartition('/')[2] not in _NEVER_NEGATIVE

    def place(self, name: str) -> Chart:
        """Return the chart that shows the figure of that name next to those of other tasks.

        >>> chart = Chart('Heads', '{group}: gradient norm')
        >>> Figure('grad/{group}/_total_norm', '', '', task_chart=chart).place('grad/head_task3/_total_norm').title
        'head: gradient norm'
        """
        chart, words = self.template(name), self.words(name)
        return other_chart(name) if chart is None else Chart(chart.category, chart.title.format(**words))

    def template(self, name: str) -> Chart | None:
        """Return the declared chart of the figure of that name, its title as declared; None if there is none."""
        return (self.task_chart or self.chart) if task_in(name) is not None else self.chart

    def words(self, name: str) -> dict[str, str]:
        """Return what the placeholders of a chart's title stand for in a name.

        >>> Figure('norm/x_token[_task{i}]/{mean,std}', '', '').words('norm/x_token_task3/mean')
        {'signal': 'x_token', 'statistic': 'mean', 'i': '3'}
        """
        match = self._expression.fullmatch(name)
        if match is None:
            raise ValueError(f'{name} does not match the declaration {self.pattern}')
        parts = {'signal': '/'.join(name.split('/')[1:-1]), 'statistic': name.rpartition('/')[2]}
        found = {key: value for key, value in match.groupdict().items() if value is not None}
        return {key: of_all_tasks(value).replace(ANY_TASK, '') for key, value in {**parts, **found}.items()}

    def samples(self, words: Mapping[str, str] = _NO_WORDS) -> Iterator[str]:
        """Yield one sample name for each choice in the pattern.

        Arguments:
            words: values of placeholders; others stand for themselves, or for 0 if they are numbers.

        >>> list(Figure('a/{group}[_task{i}]/{mean,std}', '', '').samples({'group': 'head'}))
        ['a/head/mean', 'a/head/std', 'a/head_task0/mean', 'a/head_task0/std']
        """
        words = {'i': '0', 't': '0', 'n': '0', **words}
        options: list[tuple[str, ...]] = []
        optional: list[str] | None = None
        for braces, opening, closing, literal in self._tokens:
            word = literal or words.get(braces, braces)
            if opening:
                optional = []
            elif closing and optional is not None:
                options.append(('', ''.join(optional)))
                optional = None
            elif optional is not None:
                optional.append(word.partition(',')[0])
            else:
                options.append(tuple(word.split(',')) if braces else (word,))
        yield from map(''.join, itertools.product(*options))


def other_chart(name: str) -> Chart:
    """Return the chart of a figure without a declaration.

    >>> other_chart('mine/(value_task3').title, other_chart('mine/value').title
    ('mine/(value_task{i}', 'mine')
    """
    stem = of_all_tasks(name)
    return Chart('Other figures', stem if stem != name or '/' not in name else name.rpartition('/')[0])
