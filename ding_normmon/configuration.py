"""The monitor's configuration: every key, its default, and what is refused."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

__all__ = ['ConfigurationError', 'MonitorConfig']


class ConfigurationError(ValueError):
    """A key that does not exist, or a value that cannot be; the message names the key and the nearest valid one."""


@dataclass(frozen=True)
class MonitorConfig:
    """Configuration of a :class:`~ding_normmon.monitor.Monitor`.

    Arguments:
        monitor_norm_freq: measure every so many learner iterations, beginning with iteration 0; 0 turns everything
            off.
        merge_train_output: also put this rank's own figures of the same step into ``train_output``. It waits for the
            device copy of the step.
        detail: ``'group'``, or ``'parameter'`` for one norm per parameter as well.
        top_k: with ``detail='parameter'``, only the so many largest of each group; None for all.
        module_groups: further parameter groups, name to attribute path.
        clip_fraction: also report the share of the steps since the last record in which a clip call took something
            away; it looks at every step.
        deadline: seconds after which a record is published without the ranks that have not reported.
        setup_timeout: seconds for which the ranks wait for each other once, at construction.
        close_timeout: seconds for which ``close()`` waits for what is still under way.

    Example:
        >>> MonitorConfig.read({'monitor_norm_freq': 10}).monitor_norm_freq
        10
        >>> MonitorConfig.read({'monitor_norm_frequency': 10})
        Traceback (most recent call last):
            ...
        ding_normmon.configuration.ConfigurationError: monitor.monitor_norm_frequency: no such key; the nearest is \
monitor_norm_freq
    """

    monitor_norm_freq: int = 5000
    merge_train_output: bool = False
    detail: str = 'group'
    top_k: int | None = None
    module_groups: Mapping[str, Any] = field(default_factory=dict)
    clip_fraction: bool = False
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
                nearest = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
                raise ConfigurationError(f'monitor.{key}: no such key; the nearest is {nearest}')
        for key, check in _CHECKS.items():
            if key in config and (complaint := check(config[key])):
                raise ConfigurationError(f'monitor.{key}: expected {complaint}, got {_show(config[key])}')
        values: dict[str, Any] = {key: int(value) if _is_integer(value) else value for key, value in config.items()}
        result = cls(**values)
        if result.top_k is not None and result.detail != 'parameter':
            raise ConfigurationError("monitor.top_k: has a meaning only with detail='parameter'")
        return result


def _show(value: object) -> str:
    return f'{value!r} ({type(value).__name__})'


def _is_integer(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _non_negative_integer(value: Any) -> str | None:
    return None if _is_integer(value) and value >= 0 else 'an integer of at least 0 (0 turns the monitor off)'


def _positive_integer_or_none(value: Any) -> str | None:
    return None if value is None or (_is_integer(value) and value > 0) else 'an integer of at least 1, or None'


def _boolean(value: object) -> str | None:
    return None if isinstance(value, bool) else 'True or False'


def _seconds(value: Any) -> str | None:
    ok = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    return None if ok and 0 < value < math.inf else 'a number of seconds greater than 0'


def _detail(value: object) -> str | None:
    return None if value in ('group', 'parameter') else "'group' or 'parameter'"


def _mapping(value: object) -> str | None:
    return None if isinstance(value, Mapping) else "a mapping of names to attribute paths, such as dict(adapter='a.b')"


_CHECKS = {
    'monitor_norm_freq': _non_negative_integer,
    'merge_train_output': _boolean,
    'detail': _detail,
    'top_k': _positive_integer_or_none,
    'module_groups': _mapping,
    'clip_fraction': _boolean,
    'deadline': _seconds,
    'setup_timeout': _seconds,
    'close_timeout': _seconds,
}
