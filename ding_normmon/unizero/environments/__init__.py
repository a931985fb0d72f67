"""Environments of the multi-task runs: one class per family, all with the same interface.

``make_environment(name, seed)`` builds one by the name of its task, ``environment_spec(name)`` returns its shapes.
"""

from ding_normmon.unizero.environments.base import Observation, TaskEnvironment
from ding_normmon.unizero.environments.registry import environment_spec, make_environment, valid_environment_names

__all__ = ['Observation', 'TaskEnvironment', 'environment_spec', 'make_environment', 'valid_environment_names']
