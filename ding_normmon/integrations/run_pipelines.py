"""``monitored_run`` for DI-engine's task pipelines, and for loops that train through ``learn_mode``.

Whoever trains a policy outside of a ``BaseLearner`` calls ``forward`` of its ``learn_mode``. That view is given a
``forward`` that knows its policy, and the first call of it tells which policy is being trained, and in which pipeline.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ding_normmon.core.config import MonitorConfig
    from ding_normmon.core.destination import Destination
    from ding_normmon.integrations.attach import Attachment
    from ding_normmon.integrations.ding_engine.middleware import NormMonitor
    from ding_normmon.integrations.run import MonitoredRun

__all__ = ['PipelineWatch']


class PipelineWatch:
    """Puts the monitor on the policy that a pipeline trains.

    Arguments:
        run: the monitored run.
    """

    def __init__(self, run: MonitoredRun) -> None:
        self._run = run
        self._is_over = False
        self._asked: set[int] = set()
        self._monitor: NormMonitor | None = None
        self._attachment: Attachment | None = None
        self._context: Any = None
        self.modules: Mapping[str, Callable[[ModuleType], None]] = {'ding.policy.base_policy': self._watch}

    def _watch(self, module: ModuleType) -> None:
        view_of = module.Policy.learn_mode.fget

        @functools.wraps(view_of)
        def learn_mode(policy: Any) -> Any:
            return view_of(policy)._replace(forward=_Forward(policy, self))

        self._run.replace(module.Policy, 'learn_mode', property(learn_mode))

    def before_forward(self, policy: Any) -> None:
        """Put the monitor on a policy that is about to be trained, with the pipeline's context."""
        if self._is_over or self._run.is_trained_by_learner(policy):
            return
        from ding.framework import task

        is_pipeline = bool(getattr(task, '_running', False))
        if id(policy) not in self._asked:
            self._asked.add(id(policy))
            self._begin(policy, is_pipeline)
        is_monitored = self._attachment is not None and self._attachment.is_of(policy)
        if is_monitored and self._monitor is not None and task.ctx is not self._context:
            self._context = task.ctx
            self._monitor(task.ctx)

    def _begin(self, policy: Any, is_pipeline: bool) -> None:
        where = 'the pipeline' if is_pipeline else 'the loop'
        if self._attachment is not None and self._attachment.attached and not self._attachment.is_of(policy):
            self._run.leave_alone(policy, where, 'another policy is being monitored, and figures have the same names')
            return
        self._run.put_on(policy, where, lambda config: self._put(policy, config, is_pipeline))

    def _put(self, policy: Any, config: MonitorConfig, is_pipeline: bool) -> Attachment | None:
        from ding_normmon.integrations.attach import Attachment
        from ding_normmon.integrations.ding_engine.middleware import NormMonitor

        names, destinations = self._run.configurations.task_names(), self._destinations(policy, config)
        if is_pipeline:
            self._monitor = NormMonitor(config, policy, destinations, task_names=names)
            self._attachment = self._monitor.attachment
        else:
            self._attachment = Attachment(policy, config, destinations=destinations, task_names=names)
        return self._attachment

    def _destinations(self, policy: Any, config: MonitorConfig) -> list[Destination]:
        from ding_normmon.integrations.ding_engine.run_history import history_beside
        from ding_normmon.integrations.ding_engine.writer import DIEngineWriter

        whole = self._run.configurations.of(policy)
        folder = None if whole is None else whole.get('exp_name')
        writer = DIEngineWriter(elsewhere='the history file' if config.history and folder else None)
        return [writer, history_beside(folder=folder, configuration=whole)] if config.history else [writer]

    def close(self) -> None:
        """Take everything off the policy."""
        self._is_over = True
        if self._monitor is not None:
            self._monitor.close()
        elif self._attachment is not None:
            self._attachment.detach()


class _Forward:
    """``policy._forward_learn`` as it is when it is called, not as it was when the view was taken."""

    def __init__(self, policy: Any, watch: PipelineWatch) -> None:
        self.__self__ = policy
        self._watch = watch

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._watch.before_forward(self.__self__)
        return self.__self__._forward_learn(*args, **kwargs)
