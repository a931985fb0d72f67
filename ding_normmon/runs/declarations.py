"""Declarations of a user's own metrics, as plain values in the header of a history file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ding_normmon.core.figure import Chart, Figure
from ding_normmon.core.figures import Figures
from ding_normmon.metrics import DECLARED

__all__ = ['own_figures', 'plain_figures', 'read_figures']

_MOST, _LONGEST = 1000, 2000
"""Declarations of one file, and characters of one text, that are read."""

_MOST_PLACEHOLDERS = 4
"""With many more, matching a name could take for ever."""

_PATTERN = re.compile(r'(?:[^{}\[\]]|\{[^{}\[\]]+\}|\[(?:[^{}\[\]]|\{[^{}\[\]]+\})+\]){1,200}')
_KNOWN = get_type_hints(Figure)


def own_figures(figures: Figures) -> Figures:
    """Return the declared figures that are not from this package."""
    ours = set(DECLARED.declared)
    return Figures(entry for entry in figures.declared if entry not in ours)


def plain_figures(figures: Figures) -> list[dict[str, Any]]:
    """Return declarations as plain values, without what is the default."""
    usual = {entry.name: entry.default for entry in fields(Figure)}
    return [
        {'metric': owner, **{key: value for key, value in asdict(figure).items() if value != usual[key]}}
        for owner, figure in figures.declared
    ]


def read_figures(content: Any) -> Figures:
    """Return what :func:`plain_figures` has made of declarations, without those that cannot be one.

    Example:
        >>> figure = Figure('speed/{group}/mean', 'how fast', 'm/s', chart=Chart('Mine', 'Speed'))
        >>> figures = Figures([('speed', figure)])
        >>> read_figures(plain_figures(figures)).declared == figures.declared
        True
        >>> read_figures([{'metric': 'speed', 'pattern': 5}, 'x']).declared
        ()
    """
    return Figures(_read(content[:_MOST]) if isinstance(content, list) else ())


def _read(entries: list[Any]) -> Iterator[tuple[str, Figure]]:
    for entry in entries:
        if not isinstance(entry, Mapping):
            continue
        values = {key: value for key, value in entry.items() if key in _KNOWN}
        for key in ('chart', 'task_chart'):
            values[key] = _chart(values.get(key))
        owner = entry.get('metric')
        if not _is_text(owner) or not all(map(_is_valid, values, values.values())):
            continue
        if all(key in values for key in ('pattern', 'definition', 'unit')) and _is_pattern(values['pattern']):
            figure = Figure(**values)
            if _compiles(figure):
                yield str(owner), figure


def _is_pattern(text: str) -> bool:
    placeholders = re.findall(r'\{[^{},]*\}', text)
    return len(placeholders) <= _MOST_PLACEHOLDERS and _PATTERN.fullmatch(text) is not None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST


def _is_valid(name: str, value: Any) -> bool:
    words = _literals(_KNOWN[name])
    if words:
        return value in words
    return isinstance(value, bool) if _KNOWN[name] is bool else _is_text(value) or name.endswith('chart')


def _literals(kind: Any) -> list[Any]:
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [word for part in get_args(kind) for word in _literals(part)]


def _chart(content: Any) -> Chart | None:
    words = [content.get(key) for key in ('category', 'title')] if isinstance(content, Mapping) else [None]
    return Chart(*words) if all(map(_is_text, words)) else None


def _compiles(figure: Figure) -> bool:
    try:
        sample = next(figure.samples(), '')
        return not figure.matches(sample) or bool(figure.place(sample))
    except (re.error, LookupError, ValueError):
        return False
