"""What the user's own file says and what DI-engine's ``compile_config`` makes of it: only the second is kept by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ['CompiledConfig', 'CompiledConfigs']


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
        names = {}
        for found in self._found:
            task_id = (found.whole.get('policy') or {}).get('task_id')
            name = (found.whole.get('env') or {}).get('env_id')
            if isinstance(task_id, int) and isinstance(name, str):
                names[task_id] = name
        return names

    def of(self, policy: Any) -> Mapping[str, Any] | None:
        """Return the whole configuration that a policy was made of."""
        config = getattr(policy, '_cfg', None)
        return next((found.whole for found in self._found if found.whole.get('policy') is config), None)
