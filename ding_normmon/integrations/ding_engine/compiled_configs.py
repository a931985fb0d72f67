"""The configurations of a run: the user's own, and what DI-engine's ``compile_config`` makes of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

__all__ = ['CompiledConfig', 'CompiledConfigs', 'task_names_of_callers']


def task_names_of_callers() -> dict[int, str]:
    """Return the task names in the configurations that the calling functions have as local variables.

    LightZero's multi-task entries get the configurations of all tasks of all ranks, and build one learner. Call this
    before the training begins: up to Python 3.12, a frame keeps alive what its local variables were when read.

    Example:
        >>> def train(configs):
        ...     return task_names_of_callers()
        >>> config = {'env': {'env_id': 'Pong'}, 'policy': {'task_id': 1}}
        >>> train([[1, [config, {}]]])
        {1: 'Pong'}
    """
    names: dict[int, str] = {}
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        for value in list(frame.f_locals.values()):
            names |= {task: name for task, name in _named_tasks(value) if task not in names}
        frame = frame.f_back
    return dict(sorted(names.items()))


def _named_tasks(value: Any, depth: int = 4) -> Iterator[tuple[int, str]]:
    """Yield ``policy.task_id`` and ``env.env_id`` of a configuration, or of those in a list."""
    if isinstance(value, Mapping):
        task, name = ((value.get(part) or {}) for part in ('policy', 'env'))
        if isinstance(task, Mapping) and isinstance(name, Mapping):
            task, name = task.get('task_id'), name.get('env_id')
            if isinstance(task, int) and not isinstance(task, bool) and isinstance(name, str):
                yield task, name
    elif isinstance(value, (list, tuple)) and depth:
        for entry in value:
            yield from _named_tasks(entry, depth - 1)


@dataclass(frozen=True)
class CompiledConfig:
    """One call of ``compile_config``.

    Arguments:
        own: the user's configuration.
        whole: the same with every default; its ``exp_name`` may still be made unique.
    """

    own: Mapping[str, Any]
    whole: Mapping[str, Any]


class CompiledConfigs:
    """The configurations that a run has compiled, in their order."""

    def __init__(self) -> None:
        self._found: list[CompiledConfig] = []

    def observed(self, merge: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """Return ``deep_merge_dicts`` that takes note where defaults and the user's configuration are put together."""

        def merged(original: Any, new: Any) -> Any:
            result = merge(original, new)
            if isinstance(new, Mapping) and isinstance(original, Mapping) and {'env', 'policy'} <= set(original):
                self._found.append(CompiledConfig(new, result))
            return result

        return merged

    def flat_frequency(self, policy: Any) -> tuple[int | None, bool]:
        """Return LightZero's flat ``policy.monitor_norm_freq``, None without one, and whether the user has set it.

        Where no configuration was compiled, a value that is the policy's default was not set by the user.
        """
        config = getattr(policy, '_cfg', None) or {}
        value = config.get('monitor_norm_freq')
        if not isinstance(value, int) or isinstance(value, bool):
            return None, False
        if self._found:
            own = [found.own.get('policy') or {} for found in self._found]
            return value, any(entry.get('monitor_norm_freq') == value for entry in own)
        defaults = type(policy).default_config() if hasattr(type(policy), 'default_config') else {}
        return value, defaults.get('monitor_norm_freq') != value

    def task_names(self) -> dict[int, str]:
        """Return ``env.env_id`` of every task whose configuration was compiled, by ``policy.task_id``."""
        return dict(_named_tasks([found.whole for found in self._found]))

    def of(self, policy: Any) -> Mapping[str, Any] | None:
        """Return the whole configuration that a policy was made of."""
        config = getattr(policy, '_cfg', None)
        return next((found.whole for found in self._found if found.whole.get('policy') is config), None)
