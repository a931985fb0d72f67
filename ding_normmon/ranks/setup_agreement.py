"""Exchange between the ranks at construction: configuration, groups and tasks must agree."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ding_normmon.core.config import ConfigurationError, MonitorConfig
from ding_normmon.core.parameter_groups import Group
from ding_normmon.core.sharding import counted_elements, is_sharded
from ding_normmon.ranks.transport import Transport, TransportError, default_transport

__all__ = ['Agreement', 'agree', 'announce', 'refusals_told']

logger = logging.getLogger('ding_normmon')


@dataclass(frozen=True)
class Agreement:
    """The result of the exchange, the same on all ranks.

    Arguments:
        task_ids: global ids of the tasks that each rank trains, by rank.
        session: 8 bytes, drawn by rank 0, that tell this run's messages from those of others.
        task_names: what the ranks call the tasks; of two names of one task that of the lower rank.
        folder: of the run's files, as far as rank 0 knows it.
    """

    task_ids: tuple[tuple[int, ...], ...]
    session: bytes
    task_names: dict[int, str]
    folder: str | None = None


def agree(
    transport: Transport,
    config: MonitorConfig,
    groups: Sequence[Group],
    num_tasks: int | None,
    task_ids: Sequence[int],
    task_names: Mapping[int, str],
    folder: str | None = None,
) -> Agreement:
    """Exchange and compare the ranks' set-ups; every rank raises if any two differ.

    Raises:
        ConfigurationError: the ranks differ, or the monitor of one could not be constructed; the message says how.
        TransportError: a rank sent nothing within ``setup_timeout`` seconds.
    """
    statement = {
        'config': _config(config),
        'num_tasks': num_tasks,
        'groups': [_layout(group) for group in groups],
        'shards': {group.key: counted_elements(group) for group in groups},
        'task_ids': list(task_ids),
        'session': os.urandom(8).hex(),
        'task_names': {str(task_id): name for task_id, name in task_names.items()},
        'folder': folder,
    }
    statements = transport.agree('hello', statement, config.setup_timeout)
    for rank, other in enumerate(statements):
        if 'error' in other:
            raise ConfigurationError(f'monitor: rank {rank} could not be set up: {other["error"]}')
    for rank, other in enumerate(statements):
        for topic in ('config', 'num_tasks', 'groups'):
            if other.get(topic) != statements[0].get(topic):
                difference = _difference(topic, statements[0].get(topic), other.get(topic), rank)
                raise ConfigurationError(f'monitor: ranks disagree on {difference}')
    _check_shards(groups, [other['shards'] for other in statements])
    return Agreement(
        tuple(tuple(int(task) for task in other['task_ids']) for other in statements),
        bytes.fromhex(statements[0]['session']),
        {int(task): name for other in reversed(statements) for task, name in other['task_names'].items()},
        statements[0]['folder'],
    )


def announce(transport: Transport, config: MonitorConfig | None, error: Exception | None = None) -> None:
    """Tell the other ranks, without waiting for them, that this rank is switched off or could not be set up."""
    statement: dict[str, Any] = {'error': str(error)} if error is not None or config is None else {}
    try:
        transport.state('hello', statement or {'config': _config(config or MonitorConfig())})
    except TransportError as failure:
        logger.warning('monitor: the other ranks cannot be reached (%s); they wait until setup_timeout', failure)


@contextmanager
def refusals_told(transport: Transport | None = None) -> Iterator[None]:
    """Report an exception in the block to the other ranks at once, and raise it.

    Arguments:
        transport: the transport of the monitor that is being constructed; by default a new one. Every rank must make
            one transport per monitor, even if it fails before the monitor is built.
    """
    try:
        yield
    except Exception as error:
        announce(default_transport() if transport is None else transport, None, error)
        raise


def _layout(group: Group) -> str:
    sharded = any(is_sharded(parameter) for parameter in group.parameters)
    return f'{group.key}:{sum(parameter.numel() for parameter in group.parameters)}{":sharded" if sharded else ""}'


def _check_shards(groups: Sequence[Group], counted: Sequence[Mapping[str, int]]) -> None:
    for group in groups:
        whole = sum(parameter.numel() for parameter in group.parameters if is_sharded(parameter))
        found = sum(int(of_rank[group.key]) for of_rank in counted)
        if found != whole:
            raise ConfigurationError(
                f'monitor: the {len(counted)} ranks of the monitor hold {found} of the {whole} sharded elements of '
                f'{group.key}; the device mesh must consist of exactly these ranks'
            )


def _config(config: MonitorConfig) -> dict[str, str]:
    return {key: repr(value) for key, value in vars(config).items()}


def _difference(topic: str, first: Any, other: Any, rank: int) -> str:
    if isinstance(first, Mapping) and isinstance(other, Mapping):
        keys = [key for key in sorted({*first, *other}) if first.get(key) != other.get(key)]
        if 'monitor_norm_freq' in keys and '0' in (first.get('monitor_norm_freq'), other.get('monitor_norm_freq')):
            # A rank that is switched off has not checked anything else.
            keys = ['monitor_norm_freq']
        return '; '.join(f'monitor.{key}: {first.get(key)} on rank 0, {other.get(key)} on rank {rank}' for key in keys)
    if isinstance(first, list) and isinstance(other, list):
        odd = sorted(set(first) ^ set(other)) or ['their order']
        return f'the parameter groups of the model: {odd[:4]} differ between rank 0 and rank {rank}'
    return f'{topic}: {first} on rank 0, {other} on rank {rank}'
