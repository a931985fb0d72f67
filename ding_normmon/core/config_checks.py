"""Which values the keys of the monitor's configuration may have."""

from __future__ import annotations

import numbers
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = ['CHECKS', 'ON_FINDING', 'bytes_of', 'is_integer']

ON_FINDING = ('warn', 'checkpoint', 'stop')
"""Actions of a finding."""


def bytes_of(size: str | int | None) -> int:
    """Return a size in bytes.

    Raises:
        ValueError: it is none.

    >>> bytes_of('64MB'), bytes_of('1.5 GB'), bytes_of(4096), bytes_of(None)
    (67108864, 1610612736, 4096, 0)
    """
    found = re.fullmatch(r'([0-9.]+) ?([KMG]?)i?B?', str(size or 0), re.IGNORECASE)
    if found is None or isinstance(size, bool):
        raise ValueError(f'{size!r} is no size')
    return int(float(found[1]) * {'': 1, 'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30}[found[2].upper()])


def is_integer(value: object) -> bool:
    """Return whether a value is an integer, Python's or NumPy's, and not a truth value."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


_Check = tuple[Callable[[Any], bool], str]
"""Tells whether a value is valid, and says what is."""

_LONGEST = 1e9
"""Longest time, in seconds, that every system can wait for."""

_SMALLEST_BOX = 1 << 20


def _integer(least: int, note: str = '') -> _Check:
    return lambda value: is_integer(value) and value >= least, f'an integer of at least {least}{note}'


def _or_none(check: _Check) -> _Check:
    is_valid, expected = check
    return lambda value: value is None or is_valid(value), f'{expected}, or None'


def _one_of(*words: str) -> _Check:
    return lambda value: value in words, f'{", ".join(map(repr, words[:-1]))} or {words[-1]!r}'


def _is_cadence(value: Any) -> bool:
    return value in ('auto', 'off') if isinstance(value, str) else is_integer(value) and value > 0


def _is_size(value: Any) -> bool:
    try:
        return value is None or bytes_of(value) >= _SMALLEST_BOX
    except ValueError:
        return False


def _are_thresholds(value: Any) -> bool:
    if not isinstance(value, (list, tuple)) or not value or not all(map(_is_number, value)):
        return False
    return all(0 <= tau < 1 for tau in value) and len(set(value)) == len(value)


def _are_rules(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(change, (bool, Mapping)) for name, change in value.items()
    )


def _are_actions(value: Any) -> bool:
    words, names = (value.values(), list(value)) if isinstance(value, Mapping) else ([value], [])
    return all(isinstance(name, str) for name in names) and all(word in ON_FINDING for word in words)


def _are_task_names(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(is_integer(task_id) and isinstance(name, str) for task_id, name in value.items())
    return isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)


_BOOLEAN: _Check = (lambda value: isinstance(value, bool), 'True or False')
_SECONDS: _Check = (
    lambda value: _is_number(value) and 0 < value <= _LONGEST,
    f'a number of seconds greater than 0, and at most {_LONGEST:g}',
)
_OR_NEVER = _or_none(_integer(0, ' (0 for never)'))

CHECKS: dict[str, _Check] = {
    'monitor_norm_freq': _integer(0, ' (0 turns the monitor off)'),
    'watch': (_is_cadence, "'auto', 'off' or a number of iterations of at least 1"),
    'black_box': (_is_size, "a size of at least 1MB, such as '64MB', or None for no black box"),
    'merge_train_output': _BOOLEAN,
    'preset': _one_of('basic', 'multitask', 'full'),
    'conflict_freq': _OR_NEVER,
    'conflict_exact': _one_of('rank', 'never'),
    'conflict_by_loss': _BOOLEAN,
    'conflict_blocks': _BOOLEAN,
    'sketch_size': (
        lambda value: is_integer(value) and value > 0 and value % 64 == 0,
        'a multiple of 64, such as 4096',
    ),
    'update_freq': _OR_NEVER,
    'plasticity_freq': _or_none(_integer(1)),
    'dormant_taus': (_are_thresholds, 'different thresholds from 0 to below 1, such as (0.025,)'),
    'memory_budget': _integer(1),
    'budget': _or_none(
        (
            lambda value: _is_number(value) and 0 < value < 1,
            'a share of training time between 0 and 1, such as 0.01',
        )
    ),
    'detail': _one_of('group', 'parameter'),
    'top_k': _or_none(_integer(1)),
    'module_groups': (
        lambda value: isinstance(value, Mapping),
        "a mapping of names to attribute paths, such as dict(adapter='a.b')",
    ),
    'task_names': (
        _are_task_names,
        "a list of names in the order of task ids, or a mapping of ids to names, such as {0: 'Pong'}",
    ),
    'clip_fraction': _BOOLEAN,
    'diagnose': _BOOLEAN,
    'history': _BOOLEAN,
    'rules': (
        _are_rules,
        "a mapping of rules to False or to their options, such as {'weight_jump': False}",
    ),
    'on_finding': (
        _are_actions,
        "'warn', 'checkpoint' or 'stop', or a mapping of severities and rules to these, such as {'error': 'stop'}",
    ),
    'deadline': _SECONDS,
    'setup_timeout': _SECONDS,
    'close_timeout': _SECONDS,
}
