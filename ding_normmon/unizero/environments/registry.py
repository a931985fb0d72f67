"""Looks up environments by the name of their task; an unknown name raises an error with the nearest valid one."""

from __future__ import annotations

import difflib
import functools
import importlib
from typing import Any, NamedTuple

from ding_normmon.unizero.environments.base import TaskEnvironment
from ding_normmon.unizero.task_spec import TaskSpec

__all__ = ['environment_spec', 'make_environment', 'valid_environment_names']


class Family(NamedTuple):
    """Where to find one family of environments; its module is imported only when it is used."""

    module: str
    class_name: str
    prefix: str = ''
    suffix: str = ''

    def load(self) -> Any:
        return importlib.import_module(f'ding_normmon.unizero.environments.{self.module}')


FAMILIES = (
    Family('minigrid', 'MiniGridEnvironment', prefix='MiniGrid-'),
    Family('minatar', 'MinAtarEnvironment', prefix='MinAtar-'),
    Family('atari', 'AtariEnvironment', suffix='NoFrameskip-v4'),
    Family('classic_control', 'ClassicControlEnvironment'),
)


def make_environment(name: str, seed: int = 0, **options: Any) -> TaskEnvironment:
    """Build the environment of a task.

    Arguments:
        name: such as ``'MiniGrid-FourRooms-v0'``, ``'MinAtar-space_invaders'``, ``'PongNoFrameskip-v4'`` or
            ``'CartPole-v0'``.
        seed: seed of its sequence of episodes.
        options: keyword arguments of the family's class, such as ``sticky_action_probability``.

    Raises:
        ValueError: no environment has this name; the message gives the nearest valid name.
        ModuleNotFoundError: the family's package is not installed; the message names it.
    """
    family = _family_of(name)
    environment: TaskEnvironment = getattr(family.load(), family.class_name)(name, seed=seed, **options)
    return environment


@functools.cache
def environment_spec(name: str, **options: Any) -> TaskSpec:
    """Return name, observation shape and number of actions of a task; raises what :func:`make_environment` raises."""
    environment = make_environment(name, **options)
    try:
        return TaskSpec(name, environment.observation_shape, environment.action_space_size)
    finally:
        environment.close()


def valid_environment_names() -> list[str]:
    """Return the names of all environments whose package is installed."""
    found: list[str] = []
    for family in FAMILIES:
        try:
            found.extend(family.load().names())
        except ModuleNotFoundError:
            continue
    return found


def _family_of(name: str) -> Family:
    if not isinstance(name, str):
        raise ValueError(f'expected the name of an environment, got {name!r}')
    for family in FAMILIES:
        if name.startswith(family.prefix) and name.endswith(family.suffix) and name in family.load().names():
            return family
    valid = valid_environment_names()
    by_lower_case = {known.lower(): known for known in valid}
    nearest = difflib.get_close_matches(name.lower(), by_lower_case, n=1, cutoff=0.0)
    raise ValueError(f'environment {name!r} does not exist; the nearest valid name is {by_lower_case[nearest[0]]!r}')
