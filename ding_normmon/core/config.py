"""The monitor's configuration: every key and its default."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from ding_normmon.core.config_checks import CHECKS, bytes_of, is_integer

__all__ = ['ConfigurationError', 'MonitorConfig', 'bytes_of']

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
        for key, (is_valid, expected) in CHECKS.items():
            if key in config and not is_valid(config[key]):
                raise ConfigurationError(f'monitor.{key}: expected {expected}, got {_show(config[key])}')
        values: dict[str, Any] = {
            key: int(value) if is_integer(value) else value.item() if isinstance(value, np.generic) else value
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


def _sorted(value: Mapping[str, Any]) -> dict[str, Any]:
    # Sorted, because ranks compare configurations as text.
    entries = sorted(value.items(), key=lambda entry: str(entry[0]))
    return {key: _sorted(entry) if isinstance(entry, Mapping) else entry for key, entry in entries}
