"""``NormMonitorHook``: the monitor as a hook of DI-engine's ``BaseLearner``.

Values go to the learner's own TensorBoard writer under their plain names, at the iteration where they were measured.
They never pass through the learner's log buffer: its table on the console, what ``log_reduce`` sends from rank to rank
and the running means of ``TickMonitor`` stay as they are without the monitor.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ding.worker.learner.learner_hook import LearnerHook, register_learner_hook

from ding_normmon.core.config import ConfigurationError, MonitorConfig
from ding_normmon.core.finding import Finding
from ding_normmon.integrations.attach import Attachment
from ding_normmon.integrations.black_box import box_in
from ding_normmon.integrations.ding_engine.collected import collection_of, observe_writer
from ding_normmon.integrations.ding_engine.compiled_configs import task_names_of_callers
from ding_normmon.integrations.ding_engine.learner_destinations import destinations_of, folder_of_learner
from ding_normmon.integrations.monitored_forward import MonitoredForward
from ding_normmon.metrics import Metric
from ding_normmon.metrics.collection import Collection
from ding_normmon.monitor.monitor import StepMonitor
from ding_normmon.ranks.setup_agreement import refusals_told

__all__ = ['NormMonitorHook']

logger = logging.getLogger('ding_normmon')


class NormMonitorHook(LearnerHook):
    """Measures the learner steps of a ``BaseLearner``'s policy.

    ``learner.register_hook(NormMonitorHook(cfg.policy.monitor))`` is all; the policy is found behind the learner's view
    of it. In a configuration file: ``learner=dict(hook=dict(monitor=dict(name='monitor', type='norm_monitor',
    position='before_iter', ext_args=dict(monitor_norm_freq=100))))``, after an ``import`` of this module.

    ``on_finding='checkpoint'`` has the learner save its checkpoint. Nothing stops a ``BaseLearner`` from inside, so
    ``'stop'`` needs a function of the user's: ``hook.monitor.control.on('stop', ...)``.

    Arguments:
        cfg: see :class:`~ding_normmon.core.config.MonitorConfig`.
        name: the hook's name.
        priority: order among the learner's hooks.
        position: ``before_iter``, the only one that makes sense.
        ext_args: the configuration, where DI-engine makes the hook from a configuration file.
        metrics: what is measured; by default those of ``preset``, see :mod:`ding_normmon.metrics`.
        rules: further rules that judge records, the same on every rank.
        callback: called with every finding, see :class:`~ding_normmon.monitor.monitor.Monitor`.
        task_names: names of tasks by global id; the policy's own and those in ``cfg`` count more.
        configuration: of the whole run, for the event file and the history; by default the monitor's own.

    Raises:
        ConfigurationError: a key or value that cannot be; ``merge_train_output``, because the learner knows no names
            but those of ``monitor_vars()``.

    Example:
        >>> hook = NormMonitorHook({'monitor_norm_freq': 100})
        >>> hook.name, hook.position
        ('norm_monitor', 'before_iter')
    """

    def __init__(
        self,
        cfg: Mapping[str, Any] | MonitorConfig | str | None = None,
        priority: float = 30,
        position: str = 'before_iter',
        ext_args: Mapping[str, Any] | None = None,
        name: str = 'norm_monitor',
        *,
        metrics: Sequence[Metric] | None = None,
        rules: Sequence[Any] = (),
        callback: Callable[[Finding], object] | None = None,
        task_names: Mapping[int, str] | None = None,
        configuration: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(cfg, str):
            # DI-engine makes it from a configuration file, with the hook's name first, while it builds the learner.
            name, cfg = cfg, None
            task_names = {**task_names_of_callers(), **(task_names or {})}
        super().__init__(name, priority, position=position)
        if position != 'before_iter':
            raise ConfigurationError(f"monitor: the hook's position is 'before_iter', got {position!r}")
        with refusals_told():
            self._config = MonitorConfig.read(ext_args if cfg is None else cfg)
            if self._config.merge_train_output:
                raise ConfigurationError(
                    'monitor.merge_train_output: BaseLearner raises on names that are not in monitor_vars(); figures '
                    'are in its TensorBoard writer without it'
                )
        self._metrics, self._rules, self._callback = metrics, rules, callback
        self._task_names, self._configuration = task_names, configuration
        self._attachment: Attachment | None = None
        self._engine: Any = None
        self._view: Any = None
        self._closing: _CloseHook | None = None
        self._collection: Collection | None = None
        self._unobserve: Callable[[], None] = _nothing
        self._superfluous = False

    def __call__(self, engine: Any) -> None:
        """Attach at the learner's first iteration, when it has its policy and its writer."""
        # Even if it is switched off, because the other ranks must know.
        if self._attachment is None and not self._superfluous:
            self._attach(engine)
        if self._collection is not None:
            self._collection.note_env_steps(int(engine.collector_envstep))

    @property
    def attachment(self) -> Attachment:
        """The attachment, from the first iteration on."""
        if self._attachment is None:
            raise RuntimeError('monitor: the learner has not begun its first iteration')
        return self._attachment

    @property
    def monitor(self) -> StepMonitor:
        """The monitor, from the first iteration on."""
        return self.attachment.monitor

    def _attach(self, engine: Any) -> None:
        view = engine.policy
        policy = getattr(view.forward, '__self__', None)
        if policy is None:
            raise TypeError(f'monitor: behind {type(view).__name__} of the learner no policy was found')
        if isinstance(getattr(policy, '_forward_learn', None), MonitoredForward):
            self._superfluous = True
            logger.warning(
                'monitor: the policy of learner %r has a monitor already; hook %r leaves it alone',
                engine.instance_name,
                self.name,
            )
            return
        is_on = self._config.monitor_norm_freq > 0
        destinations = destinations_of(engine, self._config, self._configuration) if is_on else []
        self._attachment = Attachment(
            policy,
            self._config,
            destinations=destinations,
            iteration=lambda: int(engine.last_iter.val),
            metrics=self._metrics,
            rules=self._rules,
            callback=self._callback,
            task_names=self._task_names,
            black_box=box_in(folder_of_learner(engine), self._config),
        )
        if not self._attachment.attached:
            return
        learner = weakref.ref(engine)  # a monitor that is never closed keeps nothing alive
        self._attachment.monitor.control.on('checkpoint', lambda decision: _save(learner()))
        self._engine, self._view = engine, view
        self._collection = collection_of(self._attachment.monitor)
        if self._collection is not None:
            self._unobserve = observe_writer(self._collection, engine.tb_logger)
        # The view was taken before the policy was monitored. Not `engine.policy = ...`: that makes a new TickMonitor.
        engine._policy = view._replace(forward=self._attachment.forward)
        self._closing = _CloseHook(self)
        engine.register_hook(self._closing)

    def close(self) -> None:
        """Take everything off learner and policy and publish what is under way."""
        engine, self._engine = self._engine, None
        if self._attachment is not None and engine is not None:
            engine._policy = self._view
            self._unobserve()
            # New lists: BaseLearner may be going through the old ones, and would skip the hook behind a removed one.
            for position in ('before_iter', 'after_run'):
                entries = engine._hooks[position]
                engine._hooks[position] = [hook for hook in entries if hook not in (self, self._closing)]
            self._view = self._closing = None
            self._attachment.detach()


def _nothing() -> None: ...


def _save(learner: Any) -> None:
    if learner is not None:
        learner.save_checkpoint()


class _CloseHook(LearnerHook):
    """Closes the monitor when the learner's run ends."""

    def __init__(self, hook: NormMonitorHook) -> None:
        super().__init__(f'{hook.name}_close', 0, position='after_run')
        self._hook = hook

    def __call__(self, engine: Any) -> None:
        self._hook.close()


register_learner_hook('norm_monitor', NormMonitorHook)
