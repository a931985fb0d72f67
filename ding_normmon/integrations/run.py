"""``monitored_run``: the monitor on every learner that a piece of code builds, without a change to that code."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Callable, Mapping
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

from ding_normmon.core.config import MonitorConfig
from ding_normmon.integrations.after_import import after_import
from ding_normmon.integrations.ding_engine.compiled_configs import CompiledConfigs
from ding_normmon.integrations.run_learners import LearnerWatch
from ding_normmon.integrations.run_pipelines import PipelineWatch

if TYPE_CHECKING:
    from ding_normmon.integrations.attach import Attachment

__all__ = ['MonitoredRun', 'monitored_run']

logger = logging.getLogger('ding_normmon')


def monitored_run(config: Mapping[str, Any] | None = None, **keys: Any) -> MonitoredRun:
    """Return a context in which every learner that is built is monitored: LightZero's entries, DI-engine's pipelines.

    ``policy.monitor`` of the run's own configuration applies. If it has no frequency, a ``policy.monitor_norm_freq``
    above 0 that the user has set applies too.

    Arguments:
        config: keys of :class:`~ding_normmon.core.config.MonitorConfig`, which take precedence.
        **keys: the same as keyword arguments.

    Raises:
        ConfigurationError: an invalid key or value; for the run's own configuration it is raised when its learner is
            built.

    Example:
        In a notebook ``train_unizero([main_config, create_config], seed=0, max_env_step=10000)`` stands inside of the
        block.

        >>> with monitored_run(monitor_norm_freq=100) as run:
        ...     pass
        >>> run.lines
        []
    """
    return MonitoredRun({**(config or {}), **keys})


class MonitoredRun:
    """See :func:`monitored_run`; may be entered once.

    Arguments:
        config: keys of the monitor's configuration.

    Attributes:
        lines: one line for each learner: what is monitored, or why it is not.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        MonitorConfig.read(config)
        self._config = dict(config)
        self._undo = contextlib.ExitStack()
        self._told: set[int] = set()
        self.lines: list[str] = []
        self.configurations = CompiledConfigs()
        self._learners = LearnerWatch(self)
        self._pipelines = PipelineWatch(self)

    def __enter__(self) -> MonitoredRun:
        """Begin to look for learners."""
        configurations = {'ding.config.config': self._watch_configurations}
        modules = {**configurations, **self._learners.modules, **self._pipelines.modules}
        self._undo.enter_context(after_import(modules))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Put everything back, and publish what is under way."""
        self._undo.close()
        self._learners.close()
        self._pipelines.close()

    def replace(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute until the block ends."""
        self._undo.callback(setattr, owner, name, vars(owner)[name])
        setattr(owner, name, value)

    def _watch_configurations(self, module: ModuleType) -> None:
        if hasattr(module, 'deep_merge_dicts'):
            self.replace(module, 'deep_merge_dicts', self.configurations.observed(module.deep_merge_dicts))

    def is_trained_by_learner(self, policy: Any) -> bool:
        """Tell whether a policy belongs to a ``BaseLearner``."""
        return self._learners.has(policy)

    def configuration_of(self, policy: Any) -> tuple[MonitorConfig, str]:
        """Return the monitor's configuration for a policy, and a word on where its frequency comes from.

        Raises:
            ConfigurationError: a key or value in the policy's own ``monitor``.
        """
        own = (getattr(policy, '_cfg', None) or {}).get('monitor') or {}
        config = {**own, **self._config} if isinstance(own, Mapping) else own
        flat, is_set = self.configurations.flat_frequency(policy)
        if 'monitor_norm_freq' in config:
            return MonitorConfig.read(config), ''
        if flat and is_set:
            return MonitorConfig.read({**config, 'monitor_norm_freq': flat}), ' (policy.monitor_norm_freq)'
        found = MonitorConfig.read(config)
        if flat is None:
            return found, ' (the default)'
        ignored = f'policy.monitor_norm_freq={flat}, ' + ("LightZero's own monitor only" if is_set else 'a default')
        logger.info('monitor: every %s iterations; ignored: %s', found.monitor_norm_freq, ignored)
        return found, f' (the default; ignored: {ignored})'

    def put_on(self, policy: Any, where: str, put: Callable[[MonitorConfig], Attachment | None]) -> None:
        """Put a monitor on a policy and log one line on that, or on why it failed; training continues in any case.

        Arguments:
            policy: the policy.
            where: description of the learner or pipeline.
            put: attaches the monitor and returns the attachment.

        Raises:
            ConfigurationError: a key or value in the policy's own ``monitor``.
        """
        from ding_normmon.integrations.monitored_forward import MonitoredForward

        if isinstance(getattr(policy, '_forward_learn', None), MonitoredForward):
            self.leave_alone(policy, where, 'it has a monitor already')
            return
        config, why = self.configuration_of(policy)
        try:
            attachment = put(config)
        except Exception as error:
            # Any error: the monitor must never end the training of an unchanged script.
            logger.debug('monitor: %s could not be monitored', where, exc_info=True)
            self.leave_alone(policy, where, str(error).removeprefix('monitor: ') or type(error).__name__)
            return
        if attachment is None or not attachment.attached or attachment.monitor.transport.rank > 0:
            return
        found = attachment.description()
        groups = dict.fromkeys(re.sub(r'_task\d+$', '_task{i}', group.key) for group in found.groups)
        tasks = ', '.join(f'{task} {name}' for task, name in found.tasks.items()) or 'a single one'
        self.say(
            f'monitors {where} ({found.policy}) every {config.monitor_norm_freq} iterations{why}; '
            f'groups: {", ".join(groups)}; signals: {", ".join(name for name, _ in found.signals) or "none"}; '
            f'tasks: {tasks}'
        )

    def leave_alone(self, policy: Any, where: str, reason: str) -> None:
        """Say, once, why a policy gets no monitor."""
        if id(policy) not in self._told:
            self._told.add(id(policy))
            self.say(f'leaves {where} ({type(policy).__name__}) alone: {reason}')

    def say(self, line: str) -> None:
        """Tell the user something of one learner."""
        self.lines.append(line)
        print(f'normmon run: {line}', file=sys.stderr, flush=True)
