"""A training-dynamics monitor for multi-task reinforcement learning with DI-engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ding_normmon.core.config import ConfigurationError, MonitorConfig
    from ding_normmon.core.parameter_groups import GroupError
    from ding_normmon.core.record import Matrix, Record
    from ding_normmon.core.step import INERT, LearnerStep
    from ding_normmon.integrations.adapter import register_adapter
    from ding_normmon.integrations.attach import Attachment, attach
    from ding_normmon.integrations.ding_engine.learner_hook import NormMonitorHook
    from ding_normmon.integrations.ding_engine.middleware import NormMonitor
    from ding_normmon.integrations.ding_engine.writer import init_writer
    from ding_normmon.integrations.loop import Monitor
    from ding_normmon.integrations.run import monitored_run
    from ding_normmon.runs.history_file import HistoryFile

__version__ = '0.1.0'

__all__ = [
    'INERT',
    'Attachment',
    'ConfigurationError',
    'GroupError',
    'HistoryFile',
    'LearnerStep',
    'Matrix',
    'Monitor',
    'MonitorConfig',
    'NormMonitor',
    'NormMonitorHook',
    'Record',
    'attach',
    'init_writer',
    'monitored_run',
    'register_adapter',
]

# Imported at first use: `Monitor` works where DI-engine is not installed, and `normmon run` imports nothing, torch
# included, before the script that it runs.
_LAZY = {
    'Attachment': 'integrations.attach',
    'ConfigurationError': 'core.config',
    'GroupError': 'core.parameter_groups',
    'HistoryFile': 'runs.history_file',
    'INERT': 'core.step',
    'LearnerStep': 'core.step',
    'Matrix': 'core.record',
    'Monitor': 'integrations.loop',
    'MonitorConfig': 'core.config',
    'NormMonitor': 'integrations.ding_engine.middleware',
    'NormMonitorHook': 'integrations.ding_engine.learner_hook',
    'Record': 'core.record',
    'attach': 'integrations.attach',
    'init_writer': 'integrations.ding_engine.writer',
    'monitored_run': 'integrations.run',
    'register_adapter': 'integrations.adapter',
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        try:
            return getattr(import_module(f'ding_normmon.{_LAZY[name]}'), name)
        except ModuleNotFoundError as error:
            if (error.name or '').partition('.')[0] != 'ding':
                raise
            raise ImportError(
                f'{name} needs DI-engine, and the package ding is missing: pip install DI-engine'
            ) from error
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
