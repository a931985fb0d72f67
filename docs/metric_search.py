"""Sphinx extension: the search also finds metrics, by their whole names as they stand in TensorBoard.

Sphinx searches for words. `grad/head_value_task3/_total_norm` is none, and the reference has
`grad/{group}/_total_norm`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

__all__ = ['as_expression', 'setup']

_WIDE = {'path', 'signal', 'parameter/path', 'part', 'reason'}
"""Placeholders that stand for names with slashes in them."""


def as_expression(pattern: str) -> str:
    r"""Return the regular expression, for Python and JavaScript, of the names that a declared pattern stands for.

    Example:
        >>> expression = as_expression('norm/x_token[_task{i}]/{mean,std}')
        >>> expression
        'norm/x_token(?:_task\\d+)?/(?:mean|std)'
        >>> bool(re.fullmatch(expression, 'norm/x_token_task3/std')), bool(re.fullmatch(expression, 'norm/x_token/max'))
        (True, False)
    """
    parts = []
    for token in re.findall(r'\{[^{}]*\}|[\[\]]|[^\[\]{}]+', pattern):
        if token == '[':
            parts.append('(?:')
        elif token == ']':
            parts.append(')?')
        elif not token.startswith('{'):
            parts.append(re.sub(r'([.+*?^$()|\\])', r'\\\1', token))
        elif ',' in token:
            parts.append(f'(?:{"|".join(re.escape(word) for word in token[1:-1].split(","))})')
        elif token in ('{i}', '{n}'):
            parts.append(r'\d+')
        else:
            parts.append('.+' if token[1:-1] in _WIDE else '[^/]+')
    return ''.join(parts)


def metrics() -> list[dict[str, str]]:
    """Return what the search knows of every metric."""
    from ding_normmon.metrics.presets import DECLARED

    return [
        {
            'name': figure.pattern,
            'expression': as_expression(figure.pattern),
            'definition': figure.definition,
            'bad': figure.bad_value,
        }
        for figure in dict.fromkeys(DECLARED)
        if figure.is_listed
    ]


def write_index(app: Any, exception: Exception | None) -> None:
    """Write the metrics for `metric_search.js` into the built pages."""
    if exception is None and app.builder.format == 'html':
        target = Path(app.outdir) / '_static' / 'metric_index.js'
        target.write_text(f'window.METRICS = {json.dumps(metrics())};\n', encoding='utf-8')


def setup(app: Any) -> dict[str, bool]:
    """Register the extension."""
    app.connect('build-finished', write_index)
    app.add_js_file('metric_index.js', priority=900)
    app.add_js_file('metric_search.js', priority=901)
    return {'parallel_read_safe': True, 'parallel_write_safe': True}
