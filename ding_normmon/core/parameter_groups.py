"""Parameter groups: which parameters count as encoder, transformer, or the value head of task 3.

A group is found by module identity, never by the prefix of a parameter's name, because the same head can be listed
under several names (LightZero keeps each per-task head in a list and again in a dictionary) and wrappers rename
everything. Each parameter belongs to exactly one group, ``other`` catching what no group claims, so the squared norms
of the groups add up to the squared norm of the model.

An ``nn.ModuleList`` or ``nn.ModuleDict`` with one entry per task of the whole run is one group per task; one of another
length (a shared encoder wrapped in a list of length 1, the experts of a mixture) is one shared group. The entries of a
dict are the tasks' in the order of ``task_names`` if these are its keys, of the numbers if its keys are ``'0'``,
``'1'``, ..., and otherwise in its own. A group may also be made of
several modules, because some models spread a head over a convolution, a norm and a perceptron side by side.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ding_normmon.core.metric_names import with_task
from ding_normmon.core.module_paths import GroupError, in_containers, module_at, parameters_of, resolve, unwrap
from ding_normmon.core.task_containers import CONTAINERS, keys_by_task, without_box

__all__ = ['DEFAULT_GROUPS', 'OTHER', 'Group', 'GroupError', 'find_groups', 'unwrap']

logger = logging.getLogger('ding_normmon')

DEFAULT_GROUPS: dict[str, tuple[str, ...]] = {
    'encoder': ('tokenizer.encoder', 'representation_network', 'encoder'),
    'transformer': ('transformer',),
    'head_value': ('head_value_multi_task', 'head_value'),
    'head_reward': ('head_rewards_multi_task', 'head_rewards', 'head_reward'),
    'head_policy': ('head_policy_multi_task', 'head_policy'),
    'head_observation': ('head_observations_multi_task', 'head_observations', 'head_observation'),
    'task_embedding': ('task_embedding', 'task_emb'),
    'action_embedding': ('act_embedding_table', 'action_embedding'),
    'position_embedding': ('pos_emb', 'position_embedding'),
}
"""Default groups and the attribute paths under which models of this field keep them; the first that exists wins."""

OTHER = 'other'

Spec = str | Mapping[str, Any]
"""How a configured group is written: a path, or ``dict(path=..., per_task=...)``."""
_RESERVED = re.compile(r'^(model|x_token|other|.*_all_tasks|.*_task\d+)$')


@dataclass(frozen=True)
class Group:
    """A set of parameters that is measured as one.

    Arguments:
        name: such as ``'encoder'`` or ``'head_value'``.
        task_id: global task id, or None for a group that all tasks share.
        paths: each parameter's path inside the group, such as ``'0.weight'``.
        parameters: the parameters, in the order of ``paths``.
    """

    name: str
    task_id: int | None
    paths: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]

    @property
    def key(self) -> str:
        """The group's name in metrics: ``encoder``, ``head_value_task3``."""
        return with_task(self.name, self.task_id)


def find_groups(
    model: nn.Module,
    num_tasks: int | None = None,
    module_groups: Mapping[str, Spec] | None = None,
    task_names: Sequence[str] = (),
) -> tuple[Group, ...]:
    """Return the groups of a model; every parameter is in exactly one of them.

    Arguments:
        model: the model that is being trained.
        num_tasks: number of tasks of the whole run, or None for a single-task policy (no group is per task then).
        module_groups: further groups, name to attribute path (``dict(adapter='world_model.adapter')``) or to
            ``dict(path=..., per_task=True or False)`` where the automatic choice would be wrong. They take their
            parameters before the default groups do. ``path`` may be a list of paths, and a ``*`` in a path stands for
            the global task id, or the task's entry in a dict: ``dict(path=['heads.*.conv_value', 'heads.*.fc_value'])``
            is one group per task.
        task_names: what people call the tasks, by global id.

    Raises:
        GroupError: a reserved name, or a path that names no module.

    >>> model = nn.ModuleDict({'encoder': nn.Linear(2, 3), 'head_value': nn.ModuleList([nn.Linear(3, 1)] * 2)})
    >>> [group.key for group in find_groups(model, num_tasks=1)]
    ['encoder', 'head_value']
    """
    model = unwrap(model)
    taken: set[int] = set()
    groups: list[Group] = []
    for name, spec in (module_groups or {}).items():
        paths, per_task = _read_spec(name, spec)
        if len(paths) == 1 and '*' not in paths[0]:
            found = _groups_of(name, module_at(model, name, paths[0]), num_tasks, per_task, taken, task_names)
        else:
            found = _groups_of_several(model, name, paths, num_tasks, taken, task_names)
        if not found:
            raise GroupError(
                f'module_groups.{name}: {", ".join(paths)} has no parameters, or they are in a group named before it'
            )
        groups += found
    own = parameters_of(model)

    def foreign(target: nn.Module | nn.Parameter) -> set[int]:
        # What the model can reach but does not register is not trained with it.
        return {id(parameter) for _, parameter in _named(target)} - own

    for name, candidates in DEFAULT_GROUPS.items():
        if any(group.name == name for group in groups):
            continue
        for path in candidates:
            try:
                target = resolve(model, path)
            except GroupError as error:
                logger.warning('monitor: %s; looking elsewhere for %s', error, name)
                continue
            nested = '' if target is not None else in_containers(model, path, num_tasks)
            if '*' in nested:
                found = _groups_of_several(model, name, [nested], num_tasks, set(taken), task_names)
            elif (target := resolve(model, nested) if nested else target) is not None:
                found = _groups_of(name, target, num_tasks, None, taken | foreign(target), task_names)
            else:
                continue
            if found:
                taken.update(id(parameter) for group in found for parameter in group.parameters)
                groups += found
                break
    rest = [(path, parameter) for path, parameter in model.named_parameters() if id(parameter) not in taken]
    if rest:
        names = tuple(path.replace('_orig_mod.', '') for path, _ in rest)
        groups.append(Group(OTHER, None, names, tuple(parameter for _, parameter in rest)))
    return tuple(groups)


def _read_spec(name: str, spec: Spec) -> tuple[list[str], bool | None]:
    if not isinstance(name, str) or _RESERVED.match(name) or not re.fullmatch(r'[A-Za-z][A-Za-z0-9_.-]*', name):
        raise GroupError(
            f'module_groups: {name!r} cannot be the name of a group: model, x_token, other, *_all_tasks and '
            f'*_task{{N}} are reserved, and a name consists of letters, digits, _, . and -'
        )
    options: Mapping[str, Any] = spec if isinstance(spec, Mapping) else {'path': [spec]}
    path, per_task = options.get('path'), options.get('per_task')
    paths = [path] if isinstance(path, str) else list(path) if isinstance(path, (list, tuple)) else []
    well_formed = not set(options) - {'path', 'per_task'} and per_task in (None, True, False)
    if not paths or not all(isinstance(entry, str) for entry in paths) or not well_formed:
        raise GroupError(
            f'module_groups.{name}: expected a path or dict(path=..., per_task=True or False), got {spec!r}'
        )
    starred = {'*' in entry.split('.') for entry in paths}
    if len(starred) > 1 or (per_task is not None and (len(paths) > 1 or True in starred)):
        raise GroupError(
            f'module_groups.{name}: of several paths all or none have a * for the task id, and it alone says whether '
            f'the group is per task; got {spec!r}'
        )
    return paths, per_task


def _groups_of(
    name: str,
    target: nn.Module | nn.Parameter,
    num_tasks: int | None,
    per_task: bool | None,
    taken: set[int],
    task_names: Sequence[str],
) -> list[Group]:
    if num_tasks is not None and per_task is not False:
        target = without_box(target, num_tasks)
    if per_task is None:
        # With one task a list of length 1 says nothing; by custom it is the heads that are per task.
        per_task = (
            isinstance(target, CONTAINERS)
            and num_tasks is not None
            and (num_tasks > 1 or name.startswith('head_'))
            # The same module under every task id is a shared one.
            and len(target) == len({id(entry) for entry in target.children()}) == num_tasks
        )
    if not per_task:
        group = _group(name, None, _named(target), taken)
        return [group] if group else []
    if not isinstance(target, CONTAINERS):
        raise GroupError(
            f'module_groups.{name}: per_task=True needs a ModuleList or ModuleDict, got {type(target).__name__}'
        )
    if len(target) != num_tasks:
        tasks = 'a single-task policy' if num_tasks is None else f'{num_tasks} tasks'
        raise GroupError(f'module_groups.{name}: per_task=True needs one entry per task, got {len(target)} for {tasks}')
    entries = [target.get_submodule(key) for key in keys_by_task(target, task_names)]
    return [group for index, entry in enumerate(entries) if (group := _group(name, index, _named(entry), taken))]


def _groups_of_several(
    model: nn.Module,
    name: str,
    paths: Sequence[str],
    num_tasks: int | None,
    taken: set[int],
    task_names: Sequence[str],
) -> list[Group]:
    task_ids: Sequence[int | None] = [None]
    if '*' in paths[0].split('.'):
        if num_tasks is None:
            raise GroupError(f'module_groups.{name}: {paths[0]!r} is per task, and this policy has a single task')
        task_ids = range(num_tasks)
    groups = []
    for task_id in task_ids:
        named: list[tuple[str, nn.Parameter]] = []
        for path in paths:
            steps = path.split('.')
            for position in (position for position, step in enumerate(steps) if step == '*'):
                steps[position] = _key_of_task(model, steps[:position], task_id, num_tasks, task_names)
            # What two paths have in common is no part of a parameter's name; a clash keeps the whole path.
            clash = [entry.split('.')[-1] for entry in paths].count(path.split('.')[-1]) > 1
            prefix = '' if len(paths) == 1 else '.'.join(steps if clash else steps[-1:])
            named += _named(module_at(model, name, '.'.join(steps)), prefix)
        if group := _group(name, task_id, named, taken):
            groups.append(group)
    return groups


def _key_of_task(
    model: nn.Module, steps: Sequence[str], task_id: int | None, num_tasks: int | None, task_names: Sequence[str]
) -> str:
    """Return what a ``*`` behind these steps stands for: the task's key in a dict, else its id."""
    container = resolve(model, '.'.join(steps)) if steps else model
    if isinstance(container, nn.ModuleDict) and len(container) == num_tasks and task_id is not None:
        return keys_by_task(container, task_names)[task_id]
    return str(task_id)


def _named(target: nn.Module | nn.Parameter, prefix: str = '') -> list[tuple[str, nn.Parameter]]:
    if isinstance(target, nn.Parameter):
        return [(prefix or 'weight', target)]
    return list(target.named_parameters(prefix))


def _group(name: str, task_id: int | None, named: Sequence[tuple[str, nn.Parameter]], taken: set[int]) -> Group | None:
    # Tied parameters are counted once, in the group that names them first; also when two paths lead to one module.
    kept: dict[int, tuple[str, nn.Parameter]] = {}
    for path, parameter in named:
        if id(parameter) not in taken:
            kept.setdefault(id(parameter), (path.replace('_orig_mod.', ''), parameter))
    taken.update(kept)
    if not kept:
        return None
    paths, parameters = zip(*kept.values(), strict=True)
    return Group(name, task_id, paths, parameters)
