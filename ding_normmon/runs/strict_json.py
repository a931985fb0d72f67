"""JSON as its standard has it: NaN and infinities, which it does not know, are written as the texts that name them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ['dumps', 'number']

_NAMES = {'NaN': math.nan, 'Infinity': math.inf, '-Infinity': -math.inf}


def dumps(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON that every reader takes; what JSON has no word for is written as text.

    Example:
        >>> dumps({'a': [1.5, math.nan], 0: -math.inf})
        '{"a": [1.5, "NaN"], "0": "-Infinity"}'
    """
    try:
        return json.dumps(value, allow_nan=False, default=str, indent=indent)
    except (ValueError, TypeError):
        return json.dumps(_named(value), allow_nan=False, default=str, indent=indent)


def _named(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return 'NaN' if math.isnan(value) else 'Infinity' if value > 0 else '-Infinity'
    if isinstance(value, Mapping):
        return {str(_named(key)): _named(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_named(entry) for entry in value]
    return value


def number(value: Any) -> float:
    """Return a number as :func:`dumps` wrote it.

    Raises:
        ValueError: it is none.

    Example:
        >>> number('Infinity'), number(2)
        (inf, 2.0)
    """
    if isinstance(value, str) and value in _NAMES:
        return _NAMES[value]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f'{str(value)[:40]!r} is no number')
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError('a number with too many digits') from error
