"""The monitor's configuration: every key, its default, and its check."""

from __future__ import annotations

import difflib
import numbers
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

__all__ = ['ON_FINDING', 'ConfigurationError', 'MonitorConfig', 'bytes_of']

ON_FINDING = ('warn', 'checkpoint', 'stop')
"""Actions of a finding."""


class ConfigurationError(ValueError):
    """An unknown key or an invalid value; the message names the key and the nearest valid one.

    Example:
        >>> MonitorConfig.read({'monitor_norm_freq': '100'})
        Traceback (most recent call last):
            ...
        ding_normmon.core.config.ConfigurationError: monitor.monitor_norm_freq: expected an integer of at least 0...
    """


@dataclass(frozen=True)
class MonitorConfig:
    """Configuration of a :class:`~ding_normmon.monitor.monitor.Monitor`.

    Arguments:
        monitor_norm_freq: measure every so many learner iterations, beginning with iteration 0; 0 turns everything
            off.
        watch: how often learner steps between two published records are measured, with the ``basic`` metrics: every so
            many iterations, ``'auto'`` for the smallest power of two that keeps everything within ``budget``, or
            ``'off'``. The rules and the black box read these records; no curve does.
        black_box: size of each rank's black box, a file beside the history with the last watched records, such as
            ``'64MB'``; None for none.
        merge_train_output: also put this rank's own figures of the same step into ``train_output``. It waits for the
            device copy of the step.
        preset: what is measured: ``'basic'`` (what costs next to nothing), ``'multitask'`` (also gradient conflict,
            updates and plasticity) or ``'full'`` (everything, also what needs every step or more backward passes).
        conflict_freq: gradient conflict every so many iterations, a multiple of ``monitor_norm_freq``; None for every
            monitored iteration, 0 for never.
        conflict_exact: ``'never'``, or ``'rank'`` for exact cosines between tasks of one rank: it holds the gradients
            of all of them at the same time, and what it reports then depends on which tasks share a rank.
        conflict_by_loss: also by the terms of each task's loss (one more backward pass per task and term).
        conflict_blocks: also for every block of a shared group.
        sketch_size: numbers that stand for one task's gradient of one group, a multiple of 64; the standard error of a
            cosine is at most 1/sqrt(sketch_size).
        update_freq: weight updates every so many iterations, like ``conflict_freq``.
        plasticity_freq: the same for plasticity.
        dormant_taus: thresholds of the dormant ratio.
        memory_budget: bytes that a rank may spend on one record's vectors (second moments, per-unit activity); what
            would not fit is projected to fewer dimensions, with a stated error.
        budget: share of training time that the monitor may cost; expensive metrics are measured less often to stay
            under it, and judging records takes at most a quarter of it. None for no limit; ``watch='auto'`` keeps to 1%
            then.
        detail: ``'group'``, or ``'parameter'`` for one norm per parameter as well.
        top_k: with ``detail='parameter'``, only the so many largest of each group; None for all.
        module_groups: further parameter groups, name to attribute path.
        task_names: what people call the tasks: a list in the order of their global ids, or a mapping of ids to names.
        clip_fraction: also report the share of the steps since the last record in which a clip call took something
            away; it looks at every step.
        history: also write every record, complete, to ``history.arrows`` beside DI-engine's event file.
        diagnose: judge every record by the rules of :mod:`ding_normmon.diagnose`.
        rules: changes to the rules by name: False switches one off, a mapping sets its options.
        on_finding: what a new finding leads to, ``'warn'``, ``'checkpoint'`` or ``'stop'``; or a mapping by severity
            or rule, of which the rule counts more: ``{'error': 'checkpoint', 'non_finite': 'stop'}``. A plain word is
            for warnings and errors.
        deadline: seconds after which a record is published without the ranks that have not reported.
        setup_timeout: seconds for which the ranks wait for each other once, at construction.
        close_timeout: seconds for which ``close()`` waits for what is still under way.

    Example:
        >>> MonitorConfig.read({'monitor_norm_freq': 10}).monitor_norm_freq
        10
        >>> MonitorConfig.read({'monitor_norm_frequency': 10})
        Traceback (most recent call last):
            ...
        ding_normmon.core.config.ConfigurationError: monitor.monitor_norm_frequency: no such key; the nearest is \
monitor_norm_freq
    """

    monitor_norm_freq: int = 5000
    watch: str | int = 'auto'
    black_box: str | int | None = '64MB'
    merge_train_output: bool = False
    preset: str = 'basic'
    conflict_freq: int | None = None
    conflict_exact: str = 'never'
    conflict_by_loss: bool = False
    conflict_blocks: bool = False
    sketch_size: int = 4096
    update_freq: int | None = None
    plasticity_freq: int | None = None
    dormant_taus: tuple[float, ...] = (0.025, 0.1)
    memory_budget: int = 8 * 2**20
    budget: float | None = 0.01
    detail: str = 'group'
    top_k: int | None = None
    module_groups: Mapping[str, Any] = field(default_factory=dict)
    task_names: Mapping[int, str] = field(default_factory=dict)
    clip_fraction: bool = False
    history: bool = True
    diagnose: bool = True
    rules: Mapping[str, Any] = field(default_factory=dict)
    on_finding: str | Mapping[str, str] = 'warn'
    deadline: float = 60.0
    setup_timeout: float = 300.0
    close_timeout: float = 10.0

    @classmethod
    def read(cls, config: Mapping[str, Any] | MonitorConfig | None) -> MonitorConfig:
        """Return a checked configuration from an ``EasyDict`` or any mapping.

        Raises:
            ConfigurationError: an unknown key, or a value of the wrong type or range.
        """
        if isinstance(config, MonitorConfig):
            return config
        config = {} if config is None else config
        if not isinstance(config, Mapping):
            raise ConfigurationError(f'monitor: expected a mapping such as EasyDict, got {_show(config)}')
        known = {entry.name for entry in fields(cls)}
        for key in config:
            if key not in known:
                _refuse_larger(config)
                nearest = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
                raise ConfigurationError(f'monitor.{key}: no such key; the nearest is {nearest}')
        for key, (is_valid, expected) in _CHECKS.items():
            if key in config and not is_valid(config[key]):
                raise ConfigurationError(f'monitor.{key}: expected {expected}, got {_show(config[key])}')
        values: dict[str, Any] = {
            key: int(value) if _is_integer(value) else value.item() if isinstance(value, np.generic) else value
            for key, value in config.items()
        }
        if 'dormant_taus' in values:
            values['dormant_taus'] = tuple(float(tau) for tau in values['dormant_taus'])
        if isinstance(values.get('task_names'), (list, tuple)):
            values['task_names'] = dict(enumerate(values['task_names']))
        for key in ('rules', 'on_finding', 'task_names'):
            if isinstance(values.get(key), Mapping):
                values[key] = _sorted(values[key])
        result = cls(**values)
        for key in ('conflict_freq', 'plasticity_freq', 'update_freq'):
            frequency, base = getattr(result, key), result.monitor_norm_freq
            if frequency is not None and base and frequency % base:
                raise ConfigurationError(
                    f'monitor.{key}: expected a multiple of monitor_norm_freq, {base}, got {frequency}; the next is '
                    f'{-(-frequency // base) * base}'
                )
        if result.top_k is not None and result.detail != 'parameter':
            raise ConfigurationError("monitor.top_k: only allowed with detail='parameter'")
        return result


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


_LARGER = {
    'cfg': ('policy', 'env'),
    'cfg.policy': ('learn', 'collect', 'eval', 'cuda', 'type', 'batch_size', 'monitor'),
}
"""Keys of larger configurations; two of them show that the wrong one was passed."""


def _refuse_larger(config: Mapping[str, Any]) -> None:
    for name, keys in _LARGER.items():
        if sum(key in config for key in keys) >= 2:
            part = config.get('policy', {}) if name == 'cfg' else config
            there = isinstance(part, Mapping) and 'monitor' in part
            instead = 'cfg.policy.monitor' if there else 'the monitor\'s own, such as dict(monitor_norm_freq=100)'
            raise ConfigurationError(f'monitor: this is {name}, the configuration of more; hand over {instead}')


def _show(value: object) -> str:
    return f'{value!r} ({type(value).__name__})'


def _is_integer(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _sorted(value: Mapping[str, Any]) -> dict[str, Any]:
    # Sorted, because ranks compare configurations as text.
    entries = sorted(value.items(), key=lambda entry: str(entry[0]))
    return {key: _sorted(entry) if isinstance(entry, Mapping) else entry for key, entry in entries}


_Check = tuple[Callable[[Any], bool], str]
"""Tells whether a value is valid, and says what is."""

_LONGEST = 1e9
"""Longest time, in seconds, that every system can wait for."""

_SMALLEST_BOX = 1 << 20


def _integer(least: int, note: str = '') -> _Check:
    return lambda value: _is_integer(value) and value >= least, f'an integer of at least {least}{note}'


def _or_none(check: _Check) -> _Check:
    is_valid, expected = check
    return lambda value: value is None or is_valid(value), f'{expected}, or None'


def _one_of(*words: str) -> _Check:
    return lambda value: value in words, f'{", ".join(map(repr, words[:-1]))} or {words[-1]!r}'


def _is_cadence(value: Any) -> bool:
    return value in ('auto', 'off') if isinstance(value, str) else _is_integer(value) and value > 0


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
        return all(_is_integer(task_id) and isinstance(name, str) for task_id, name in value.items())
    return isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)


_BOOLEAN: _Check = (lambda value: isinstance(value, bool), 'True or False')
_SECONDS: _Check = (
    lambda value: _is_number(value) and 0 < value <= _LONGEST,
    f'a number of seconds greater than 0, and at most {_LONGEST:g}',
)
_OR_NEVER = _or_none(_integer(0, ' (0 for never)'))

_CHECKS: dict[str, _Check] = {
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
        lambda value: _is_integer(value) and value > 0 and value % 64 == 0,
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
