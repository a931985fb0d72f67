"""``NormMonitor``: the monitor as a middleware of DI-engine's task pipeline."""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ding.framework import task

from ding_normmon.configuration import ConfigurationError, MonitorConfig
from ding_normmon.integrations.hook_points import find_optimizers, hook_points_from_outside
from ding_normmon.integrations.unizero_signals import find_world_model, signals_of_unizero
from ding_normmon.integrations.writer import DIEngineWriter
from ding_normmon.learner_step import INERT
from ding_normmon.monitor import Monitor
from ding_normmon.publish.destination import Destination

__all__ = ['NormMonitor']


class NormMonitor:
    """Measures the learner steps of a policy; stands before the trainer in ``task.use(...)``.

    The step itself is measured inside ``policy._forward_learn``, which is wrapped on the policy object; the middleware
    hands the context to the monitor and puts finished records on ``ctx.monitor_records``. Construct it before
    ``policy.learn_mode`` is taken, because that view keeps the methods it was made of.

    Arguments:
        cfg: an ``EasyDict``, see :class:`~ding_normmon.configuration.MonitorConfig`; ``monitor_norm_freq`` alone is
            enough, and 0 turns everything off.
        policy: a policy that publishes through ``self.learner_step``; LightZero's own UniZero is observed from
            outside.
        destinations: where records go, on rank 0; DI-engine's writer by default.

    Raises:
        ConfigurationError: see :class:`~ding_normmon.monitor.Monitor`; also an asynchronous task.
        TypeError: an object that is no policy, such as ``policy.learn_mode``.
    """

    def __init__(
        self,
        cfg: Mapping[str, Any] | MonitorConfig | None,
        policy: Any,
        destinations: Sequence[Destination] | None = None,
    ) -> None:
        config = MonitorConfig.read(cfg)
        self._refuse_async()
        self._active = config.monitor_norm_freq > 0 and not _is_other_role()
        if not self._active:
            return
        model = _model_of(policy)
        self.monitor = Monitor(
            model,
            config,
            num_tasks=getattr(policy, 'num_tasks', None),
            task_ids=getattr(policy, 'task_ids', None),
            task_names=getattr(policy, 'task_names', ()),
            destinations=[DIEngineWriter()] if destinations is None else destinations,
        )
        self._policy = policy
        self._model = model
        self._publishes = hasattr(policy, 'learner_step')
        self._context: Any = None
        self._context_iteration = -1
        self._steps_of_iteration = 0
        self._running: Any = None
        self._wrap()
        atexit.register(self.close)

    def __call__(self, ctx: Any) -> None:
        """Take the context; put the records that became complete since the last loop on ``ctx.monitor_records``."""
        if not self._active:
            ctx.monitor_records = []
            return
        if self._running is None:
            self._refuse_async()
            self._close_with_task()
        self._context = ctx
        ctx.monitor_records = self.monitor.take_records()

    def close(self) -> None:
        """Take the wrapper off the policy, publish what is under way, at most ``close_timeout`` seconds long."""
        if not self._active:
            return
        self._active = False
        atexit.unregister(self.close)
        self._policy.__dict__.pop('_forward_learn', None)
        self.monitor.close()
        self._policy = self._model = self._context = None

    # -- the learner step ------------------------------------------------------------------------------------------

    def _wrap(self) -> None:
        policy, monitor = self._policy, self.monitor
        if '_forward_learn' in vars(policy):
            raise ConfigurationError('monitor: this policy is being monitored already; close() that monitor first')
        forward_learn: Callable[..., Any] = policy._forward_learn

        def monitored_forward_learn(data: Any, *args: Any, **kwargs: Any) -> Any:
            iteration = self._iteration(data)
            step = monitor.begin_step(iteration)
            if step is INERT or not (step.due or self._publishes):
                return forward_learn(data, *args, **kwargs)
            try:
                with self._observed(step):
                    output = forward_learn(data, *args, **kwargs)
            finally:
                monitor.end_step(step)
            if monitor.config.merge_train_output:
                target = output[-1] if isinstance(output, list) else output
                target.update(monitor.take_local_scalars())
            return output

        policy._forward_learn = monitored_forward_learn

    @contextlib.contextmanager
    def _observed(self, step: Any) -> Iterator[None]:
        """Let the policy, or what can be seen of it from outside, publish into the step."""
        if self._publishes:
            self._policy.learner_step = step
            try:
                yield
            finally:
                self._policy.learner_step = INERT
            return
        with contextlib.ExitStack() as undo:
            undo.enter_context(hook_points_from_outside(step, self._model, find_optimizers(self._policy)))
            world_model = find_world_model(self._model)
            if world_model is not None:
                undo.enter_context(signals_of_unizero(step, world_model))
            yield

    def _iteration(self, data: Any) -> int:
        if isinstance(data, (list, tuple)) and data and isinstance(data[-1], int) and not isinstance(data[-1], bool):
            return data[-1]
        if isinstance(data, Mapping) and isinstance(data.get('train_iter'), int):
            return int(data['train_iter'])
        if self._context is None:
            raise RuntimeError(
                'monitor: a learner step began before the middleware had seen a context; '
                'task.use(NormMonitor(...)) must stand before the trainer'
            )
        # Learners that step several times before they count: the steps already done are added.
        if self._context.train_iter != self._context_iteration:
            self._context_iteration = self._context.train_iter
            self._steps_of_iteration = 0
        iteration = self._context_iteration + self._steps_of_iteration
        self._steps_of_iteration += 1
        return int(iteration)

    # -- DI-engine's task ------------------------------------------------------------------------------------------

    @staticmethod
    def _refuse_async() -> None:
        # DI-engine's one task object keeps the flag of a task that has ended.
        if getattr(task, '_running', False) and task.async_mode:
            raise ConfigurationError(
                'monitor: async_mode=True runs middleware out of order, so no step could be given its iteration; '
                'start the task with async_mode=False'
            )

    def _close_with_task(self) -> None:
        """Close when the task ends, whether by itself, by Ctrl-C or by an exception: ``stop`` is called in each."""
        self._running = task
        stop = task.stop

        def stop_and_close() -> None:
            task.__dict__.pop('stop', None)
            try:
                self.close()
            finally:
                stop()

        task.stop = stop_and_close


def _is_other_role() -> bool:
    return bool(getattr(task, 'router', None) and task.router.is_active and not task.has_role(task.role.LEARNER))


def _model_of(policy: Any) -> Any:
    for attribute in ('_learn_model', '_model'):
        model = getattr(policy, attribute, None)
        if model is not None and callable(getattr(model, 'parameters', None)):
            return model
    if hasattr(policy, '_fields'):
        raise TypeError('monitor: expected the policy itself, got one of its mode views, such as policy.learn_mode')
    raise TypeError(f'monitor: {type(policy).__name__} has neither _learn_model nor _model; it is no DI-engine policy')
