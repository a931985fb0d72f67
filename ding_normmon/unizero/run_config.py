"""The configuration of a whole run: its keys and defaults, changes by ``--set``, and their checks."""

from __future__ import annotations

import copy
import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from easydict import EasyDict

from ding_normmon.core.config import ConfigurationError, MonitorConfig
from ding_normmon.unizero.environments import environment_spec
from ding_normmon.unizero.policy_config import flatten, multitask_policy_config
from ding_normmon.unizero.task_spec import TaskSpec, check_task_ids

__all__ = ['RUN_DEFAULTS', 'complete_config', 'tasks_of_ranks']

logger = logging.getLogger('ding_normmon')

RUN_DEFAULTS: dict[str, Any] = {
    'exp_name': '',  # folder of the run: event files, checkpoint
    'seed': 0,
    'tasks': [],  # names; the position of a name is the task's global id
    'task_split': None,  # global task ids of each rank, such as [[0, 1], [2]]; None: as evenly as possible
    'max_train_iter': 1500,
    'max_minutes': 0.0,  # wall clock of the training loop; 0: no limit
    'resume': False,
    'environment_options': {},  # keyword arguments of the environments' class, the same for all tasks
    'collect': {
        'steps_per_environment': 20,  # per loop, followed by the policy's update_per_collect learner steps
        'epsilon': 0.0,
    },
    'evaluate': {'frequency': 500, 'episodes': 8},  # in learner iterations, and always at the end
    'checkpoint': {'frequency': 500},  # in learner iterations, and always at the end
    'random_policy': {'episodes': 20, 'seconds': 2.0},  # per task, at most so many seconds; 0 episodes: not measured
    'log': {'train_show_freq': 10, 'progress_seconds': 10.0, 'return_window': 20},
    'policy': {},  # keys of multitask_policy_config
}

OPEN = (
    'environment_options',
    'policy.monitor.module_groups',
    'policy.monitor.rules',
    'policy.monitor.on_finding',
)
"""Mappings whose keys are the user's own."""

_FLAT = 'policy.monitor_norm_freq'

INTEGER_OR_LIST = ('policy.batch_size',)

AT_LEAST = {
    'max_train_iter': 0,
    'max_minutes': 0,
    'collect.steps_per_environment': 1,
    'collect.epsilon': 0,
    'evaluate.frequency': 0,
    'evaluate.episodes': 1,
    'checkpoint.frequency': 0,
    'random_policy.episodes': 0,
    'random_policy.seconds': 0,
    'log.train_show_freq': 1,
    'log.progress_seconds': 0,
    'log.return_window': 1,
    'policy.batch_size': 1,
    'policy.update_per_collect': 1,
    'policy.collector_env_num': 1,
    'policy.evaluator_env_num': 1,
    'policy.game_segment_length': 1,
    'policy.num_unroll_steps': 1,
    'policy.td_steps': 1,
    'policy.num_simulations': 1,
    'policy.replay_buffer_size': 1,
    'policy.temperature.decay_iterations': 1,
}
"""Smallest valid values; below them a run would fail or hang later."""


def complete_config(config: Mapping[str, Any], settings: Mapping[str, Any], task_ids: Sequence[int] | None) -> EasyDict:
    """Fill in defaults, apply settings, and check everything that can be checked without building a model.

    Arguments:
        config: the keys of :data:`RUN_DEFAULTS` that differ from the default.
        settings: changes by dotted key, such as ``{'policy.batch_size': 8}``.
        task_ids: the tasks of this rank; None for all.

    Returns:
        the complete configuration; the policy is built from ``policy``.

    Raises:
        ValueError: an unknown key, a value of the wrong type or out of range, a task that does not exist; the message
            names the key, the value and the nearest valid spelling.
        ModuleNotFoundError: the package of a task is not installed.
    """
    config = _merge(copy.deepcopy(RUN_DEFAULTS), config, '')
    run_settings = {key: value for key, value in settings.items() if key.split('.')[0] != 'policy'}
    policy_settings = {key: value for key, value in settings.items() if key.split('.')[0] == 'policy'}
    _take_flat_frequency(config['policy'], policy_settings)
    for key, value in run_settings.items():
        _apply(config, config, key, value)
    _check_minimum(config)
    specs = _task_specs(config['tasks'], config['environment_options'])
    every_task = list(range(len(specs)))
    overrides = config['policy']
    if policy_settings:
        known = {**config, 'policy': _expand(_policy_config(specs, every_task, overrides))}
        for key, value in policy_settings.items():
            _apply({'policy': overrides}, known, key, value)
    _check_minimum(config)
    config['policy'] = _policy_config(specs, every_task if task_ids is None else list(task_ids), overrides)
    _check_buffer(config['policy'])
    return EasyDict(config)


def _take_flat_frequency(policy: dict[str, Any], settings: dict[str, Any]) -> None:
    """Move LightZero's ``policy.monitor_norm_freq`` to where it belongs, if nothing else says how often to measure."""
    flat = settings.pop(_FLAT, policy.pop('monitor_norm_freq', None))
    policy.pop('monitor_norm_freq', None)
    if flat is None:
        return
    MonitorConfig.read({'monitor_norm_freq': flat})
    monitor = policy.setdefault('monitor', {})
    said = settings.get('policy.monitor.monitor_norm_freq', monitor.get('monitor_norm_freq'))
    if flat and said is None:
        monitor['monitor_norm_freq'] = flat
        return
    why = f'policy.monitor.monitor_norm_freq={said} counts' if flat else "it switches off LightZero's own monitor only"
    logger.info('monitor: %s=%s is ignored: %s', _FLAT, flat, why)


def tasks_of_ranks(number_of_tasks: int, number_of_ranks: int, split: Any = None) -> list[list[int]]:
    """Return the global task ids of each rank.

    Arguments:
        number_of_tasks: tasks of the run.
        number_of_ranks: processes of the run.
        split: the user's own split, one list per rank; None for an even one, in which neighbours stay together.

    Raises:
        ValueError: the split has a wrong number of ranks, an id out of range, or a task missing or listed twice.

    Example:
        >>> tasks_of_ranks(5, 2), tasks_of_ranks(2, 3)
        ([[0, 1, 2], [3, 4]], [[0], [1], []])
    """
    if split is None:
        return [part.tolist() for part in np.array_split(np.arange(number_of_tasks), number_of_ranks)]
    if not isinstance(split, (list, tuple)) or not all(isinstance(ids, (list, tuple)) for ids in split):
        raise ConfigurationError(f'task_split: expected one list of task ids per rank, got {split!r}')
    if len(split) != number_of_ranks:
        raise ConfigurationError(f'task_split: has {len(split)} lists, but there are {number_of_ranks} ranks')
    try:
        listed = check_task_ids([task_id for ids in split for task_id in ids], number_of_tasks)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f'task_split: {error}') from error
    missing = sorted(set(range(number_of_tasks)) - set(listed))
    if missing:
        raise ConfigurationError(f'task_split: no rank trains task {missing[0]}; every task needs exactly one rank')
    return [[int(task_id) for task_id in ids] for ids in split]


def _task_specs(names: Any, options: Mapping[str, Any]) -> list[TaskSpec]:
    if not isinstance(names, (list, tuple)) or not names:
        raise ConfigurationError(f'tasks: expected a list of environment names, got {names!r}')
    specs = []
    for index, name in enumerate(names):
        try:
            specs.append(environment_spec(name, **options))
        except (ValueError, ModuleNotFoundError) as error:
            raise type(error)(f'tasks[{index}]: {error}') from error
        except TypeError as error:
            raise ConfigurationError(f'environment_options: {error}, for {name}') from error
    return specs


def _policy_config(specs: Sequence[TaskSpec], task_ids: Sequence[int], overrides: Mapping[str, Any]) -> EasyDict:
    try:
        MonitorConfig.read(overrides.get('monitor'))
        return multitask_policy_config(specs, task_ids, **overrides)
    except ValueError as error:  # both name the key without the prefix
        raise ConfigurationError(f'policy.{error}') from error


def _check_buffer(policy: EasyDict) -> None:
    sizes = policy.batch_size if isinstance(policy.batch_size, (list, tuple)) else [policy.batch_size]
    if max(sizes) >= policy.replay_buffer_size:
        raise ConfigurationError(
            f'policy.replay_buffer_size: must be larger than policy.batch_size ({max(sizes)}), or training never '
            f'starts; got {policy.replay_buffer_size}'
        )


def _expand(policy: Mapping[str, Any]) -> dict[str, Any]:
    """Return the policy's configuration with all keys of the monitor filled in."""
    monitor = {**asdict(MonitorConfig()), **policy.get('monitor', {})}
    return {**policy, 'monitor': monitor}


def _merge(tree: dict[str, Any], changes: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Put ``changes`` into ``tree``; new keys are allowed only in the policy and in the open mappings."""
    for key, value in changes.items():
        name = f'{prefix}{key}'
        if key not in tree:
            raise _unknown(name, [f'{prefix}{known}' for known in tree])
        if name == 'policy' or name in OPEN:
            tree[key] = _plain(value)
        elif isinstance(tree[key], dict):
            _merge(tree[key], _check(name, tree[key], value), f'{name}.')
        else:
            tree[key] = _check(name, tree[key], _plain(value))
    return tree


def _apply(tree: dict[str, Any], known: Mapping[str, Any], key: str, value: Any) -> None:
    """Set the dotted ``key`` in ``tree``; ``known`` has all valid keys, each with a value of the right type."""
    parts = key.split('.')
    for index, part in enumerate(parts):
        name = '.'.join(parts[: index + 1])
        is_open = any(name.startswith(f'{mapping}.') for mapping in OPEN)
        if not is_open and (not isinstance(known, Mapping) or part not in known):
            raise _unknown(key, _relatives(known, '.'.join(parts[:index])))
        known = known.get(part, {}) if isinstance(known, Mapping) else {}
        if index == len(parts) - 1:
            is_checked_elsewhere = is_open or name.startswith('policy.monitor.')
            tree[part] = value if is_checked_elsewhere else _check(key, known, value)
        else:
            if not isinstance(tree.get(part), dict):
                # Where a single word may replace a mapping, detailed settings replace the word.
                tree[part] = {}
            tree = tree[part]


def _relatives(known: Any, prefix: str) -> list[str]:
    """Return the dotted keys that may be suggested as the nearest valid one."""
    if not isinstance(known, Mapping):
        return [prefix]
    return [f'{prefix}.{key}' if prefix else str(key) for key in flatten(known)] or [prefix]


def _unknown(key: str, valid: Sequence[str]) -> ConfigurationError:
    completions = [name for name in valid if name.startswith(key)]
    nearest = difflib.get_close_matches(key, completions or valid, n=1, cutoff=0.0)[0]
    return ConfigurationError(f'{key}: no such key; the nearest valid one is {nearest}')


_Kinds = tuple[type, ...]

_KINDS: tuple[tuple[_Kinds, _Kinds, str], ...] = (
    ((Mapping,), (Mapping,), 'a mapping'),
    ((bool,), (bool,), 'true or false'),
    ((int,), (int,), 'an integer'),
    ((float,), (int, float), 'a number'),
    ((str,), (str,), 'a text'),
    ((list, tuple), (list, tuple), 'a list'),
)
"""Kinds of values by what a key has now: what may take its place, and what that is called."""


def _check(key: str, current: Any, value: Any) -> Any:
    """Return ``value`` if it can replace ``current``."""
    found = next(((valid, wanted) for kinds, valid, wanted in _KINDS if isinstance(current, kinds)), None)
    if current is None or found is None:
        return value
    valid, wanted = ((int, list, tuple), 'an integer or list') if key in INTEGER_OR_LIST else found
    # In Python, True is an integer.
    if not isinstance(value, valid) or (isinstance(value, bool) and bool not in valid):
        raise ConfigurationError(
            f'{key}: expected {wanted} such as {current!r}, got {value!r} ({type(value).__name__})'
        )
    return value


def _check_minimum(config: Mapping[str, Any]) -> None:
    flat = flatten(config)
    for key, minimum in AT_LEAST.items():
        values = flat.get(key)
        for value in values if isinstance(values, (list, tuple)) else [values]:
            if isinstance(value, (int, float)) and value < minimum:
                raise ConfigurationError(f'{key}: must be at least {minimum}, got {value!r}')


def _plain(value: Any) -> Any:
    """Return mappings as plain dictionaries, so that nothing is shared with the objects of a config file."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return copy.deepcopy(value)
