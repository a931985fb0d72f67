"""What a name that the monitor writes means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

__all__ = ['Figure', 'Section']

_PLACEHOLDERS = {'i': r'\d+', 't': r'\d+(?:\.\d+)?(?:e-?\d+)?', 'n': r'\d+', 'path': r'.+', 'signal': r'.+?'}
"""What ``{i}`` and so on stand for; any other placeholder stands for a part of a name without a slash."""

_TOKEN = re.compile(r'\{([^{}]*)\}|(\[)|(\])|([^{}\[\]]+)')


@dataclass(frozen=True)
class Figure:
    """One row of the metric reference.

    Arguments:
        pattern: the name, with ``{i}`` for the global task id, ``{group}`` and the like for what the model has,
            ``{mean,std}`` for any of several words, and ``[...]`` for what may be missing.
        definition: what is computed.
        unit: its unit.
        hook_point: when it is measured; empty where that is said elsewhere.
        bad_value: what a bad value means; empty where none is bad in itself.

    Example:
        >>> metric = Figure('grad/{head}[_task{i}]/{mean,std}', 'over something', 'loss / weight')
        >>> metric.matches('grad/head_value_task12/std'), metric.matches('grad/head_value/max')
        (True, False)
    """

    pattern: str
    definition: str
    unit: str
    hook_point: str = ''
    bad_value: str = ''

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        parts = []
        for braces, opening, closing, literal in _TOKEN.findall(self.pattern):
            if braces:
                words = braces.split(',')
                choice = '|'.join(map(re.escape, words)) if len(words) > 1 else _PLACEHOLDERS.get(braces, r'[^/]+?')
                parts.append(f'(?:{choice})')
            else:
                parts.append('(?:' if opening else ')?' if closing else re.escape(literal))
        return re.compile(''.join(parts))

    @cached_property
    def literal_length(self) -> int:
        """Number of characters that are the same in every name: of several rows that match, the longest is meant."""
        required = re.sub(r'\[.*?\]', '', self.pattern)
        return sum(
            len(literal) if literal else min(map(len, braces.split(','))) if ',' in braces else 0
            for braces, _, _, literal in _TOKEN.findall(required)
        )

    def matches(self, name: str) -> bool:
        """Tell whether this row is about the metric of that name."""
        return self._expression.fullmatch(name) is not None


@dataclass(frozen=True)
class Section:
    """Rows that belong together.

    Arguments:
        title: heading of the section.
        metrics: its rows.
        introduction: Markdown above the table.
        remarks: Markdown below it.
    """

    title: str
    metrics: tuple[Figure, ...]
    introduction: str = ''
    remarks: str = ''
