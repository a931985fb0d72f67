"""``attach``: the monitor on a policy whose source knows nothing of it.

The learner step is measured inside ``policy._forward_learn``, which is wrapped on the policy object; everything else is
put in place for the duration of a call, and taken away again. Whatever drives the training (DI-engine's task pipeline,
its ``BaseLearner``, a loop of one's own) is built on an :class:`Attachment` and tells it which iteration it is.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ding_normmon.core.black_box import BlackBox
from ding_normmon.core.config import ConfigurationError, MonitorConfig
from ding_normmon.core.destination import Destination
from ding_normmon.core.finding import Finding
from ding_normmon.core.parameter_groups import GroupError, find_groups
from ding_normmon.core.step import INERT, InertLearnerStep, LearnerStep
from ding_normmon.integrations.adapter import LOCAL_GRADIENT, Adapter, find_adapter
from ding_normmon.integrations.black_box import box_beside
from ding_normmon.integrations.description import Description, describe
from ding_normmon.integrations.monitored_forward import MonitoredForward
from ding_normmon.integrations.nothing_measured import NothingMeasured
from ding_normmon.integrations.observe.grad_scaler import find_scalers
from ding_normmon.integrations.observe.hook_points import HookPoints
from ding_normmon.integrations.observe.observed_steps import ObservedSteps
from ding_normmon.integrations.policy_model import find_optimizers, names_of_policy, target_of
from ding_normmon.integrations.publishing_policy import PublishingAdapter
from ding_normmon.metrics import Clipping, LearnerSteps, Metric, TargetDistance, preset_metrics
from ding_normmon.metrics.local_gradients import with_local_gradients
from ding_normmon.monitor.monitor import StepMonitor
from ding_normmon.ranks.setup_agreement import refusals_told

__all__ = ['Attachment', 'attach']

_NEVER_CALLED = (
    "the policy's _forward_learn was never called through the monitor: its learn_mode was taken before the monitor was "
    'attached (attach first, or hand on attachment.forward), or another policy is trained'
)


def attach(
    policy: Any,
    cfg: Mapping[str, Any] | MonitorConfig | None = None,
    *,
    destinations: Sequence[Destination] = (),
    iteration: Callable[[], int] | None = None,
    metrics: Sequence[Metric] | None = None,
    rules: Sequence[Any] = (),
    callback: Callable[[Finding], object] | None = None,
    task_names: Mapping[int, str] | None = None,
) -> Attachment:
    """Put a monitor on a policy: models, groups, signals, optimizers and hook points are found by looking at it.

    Attach before ``policy.learn_mode`` is taken, because that view keeps the methods it was made of.

    Arguments:
        policy: the policy object, with a ``_forward_learn`` and a model.
        cfg: see :class:`~ding_normmon.core.config.MonitorConfig`; ``monitor_norm_freq`` 0 attaches nothing.
        destinations: where records go, on rank 0; ``attachment.monitor.take_records()`` has them too.
        iteration: returns the learner iteration of the next call, for policies whose data does not contain it; by
            default learner steps are counted from 0. It is needed if calls make different numbers of steps, because
            the steps of a call in which nothing is due are not counted.
        metrics: the metrics; by default those of ``preset``, see :mod:`ding_normmon.metrics`.
        rules: further rules that judge records, the same on every rank.
        callback: called with every finding, see :class:`~ding_normmon.monitor.monitor.Monitor`.
        task_names: names of tasks by global id; the policy's own ``task_names`` and those in ``cfg`` take precedence.

    Raises:
        TypeError: an object that is no policy.
        ConfigurationError: a key or value that cannot be; a model without parameters; a policy that is monitored
            already.

    Example:
        >>> import torch
        >>> class Policy:
        ...     def __init__(self):
        ...         body, head = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
        ...         self._learn_model = torch.nn.ModuleDict({'body': body, 'head': head})
        ...         self._optimizer = torch.optim.SGD(self._learn_model.parameters(), lr=0.1)
        ...     def _forward_learn(self, data):
        ...         loss = self._learn_model['head'](self._learn_model['body'](data)).mean()
        ...         self._optimizer.zero_grad()
        ...         loss.backward()
        ...         self._optimizer.step()
        >>> policy = Policy()
        >>> attachment = attach(policy, {'monitor_norm_freq': 1})
        >>> policy._forward_learn(torch.ones(3, 2))
        >>> attachment.detach()
        >>> [record] = attachment.monitor.take_records()
        >>> [name for name in record.scalars if name.startswith('grad/')]
        ['grad/body/_total_norm', 'grad/head/_total_norm', 'grad/model/_total_norm']
    """
    return Attachment(
        policy,
        cfg,
        destinations=destinations,
        iteration=iteration,
        metrics=metrics,
        rules=rules,
        callback=callback,
        task_names=task_names,
    )


class Attachment:
    """A monitor on one policy; see :func:`attach`.

    Arguments as of :func:`attach`, and:
        black_box: keeps what this rank measures; by default one beside the history file among ``destinations``.

    Attributes:
        monitor: measures and publishes; ``monitor.take_records()`` returns what became complete.

    Example:
        >>> import torch
        >>> class Policy:
        ...     def __init__(self):
        ...         self._learn_model = torch.nn.Linear(2, 1)
        ...         self._optimizer = torch.optim.SGD(self._learn_model.parameters(), lr=0.1)
        ...     def _forward_learn(self, data):
        ...         loss = self._learn_model(data).mean()
        ...         self._optimizer.zero_grad()
        ...         loss.backward()
        ...         self._optimizer.step()
        >>> attachment = attach(Policy(), {'monitor_norm_freq': 1})
        >>> attachment.attached
        True
        >>> attachment.detach()
        >>> attachment.attached
        False
    """

    def __init__(
        self,
        policy: Any,
        cfg: Mapping[str, Any] | MonitorConfig | None = None,
        *,
        destinations: Sequence[Destination] = (),
        iteration: Callable[[], int] | None = None,
        metrics: Sequence[Metric] | None = None,
        rules: Sequence[Any] = (),
        callback: Callable[[Finding], object] | None = None,
        task_names: Mapping[int, str] | None = None,
        black_box: BlackBox | None = None,
    ) -> None:
        with refusals_told():
            if isinstance(getattr(policy, '_forward_learn', None), MonitoredForward):
                raise ConfigurationError('monitor: this policy is being monitored already; close() that monitor first')
            config = MonitorConfig.read(cfg)
            adapter = find_adapter(policy)
            if config.monitor_norm_freq > 0:
                config = dataclasses.replace(config, module_groups=_with_groups_of(adapter, config.module_groups))
        self.monitor = StepMonitor(
            adapter.model,
            config,
            num_tasks=adapter.num_tasks,
            task_ids=adapter.task_ids,
            task_names={**dict(task_names or {}), **names_of_policy(policy)},
            destinations=destinations,
            metrics=_metrics_of(adapter, preset_metrics(config.preset) if metrics is None else metrics),
            rules=rules,
            callback=callback,
            black_box=box_beside(destinations, config) if black_box is None else black_box,
        )
        self._iteration_source = iteration
        self._last_base = -1
        self._steps_done = 0
        self._running = False
        # Calls of `_forward_learn` that are under way, and the thread of the first.
        self._entering = threading.Lock()
        self._within = 0
        self._thread = 0
        self._seen: set[str] = set()
        self._policy: Any = policy
        self._adapter: Adapter | None = adapter
        self._forward: MonitoredForward | None = None
        self._at_exit: Callable[[], None] | None = None
        self._final: Description | None = None
        self._nothing = NothingMeasured(self, None)
        if config.monitor_norm_freq == 0:
            return
        monitor = self.monitor
        self._points = HookPoints(
            lambda: monitor.groups,
            optimizers=lambda: find_optimizers(policy),
            scalers=lambda: find_scalers(policy),
            clipping=next((metric for metric in monitor.metrics if isinstance(metric, Clipping)), None),
            learner_steps=next((metric for metric in monitor.metrics if isinstance(metric, LearnerSteps)), None),
            local=adapter.gradient == LOCAL_GRADIENT,
        )
        attachment = weakref.ref(self)
        for metric in monitor.metrics:
            if isinstance(metric, TargetDistance):
                # The monitor lives on when the policy has been let go of.
                metric.follow(lambda: target_of(getattr(attachment(), '_policy', None)))
        self._data: Any = None
        whole = isinstance(adapter, PublishingAdapter)
        self._steps = ObservedSteps(self.monitor, self._points, self._observe, whole=whole)
        self._wrap()

    def _wrap(self) -> None:
        own = vars(self._policy).get('_forward_learn')
        self._forward = MonitoredForward(self._policy._forward_learn, self)
        self._nothing.cause = _NEVER_CALLED
        self._own_forward = own
        self._policy._forward_learn = self._forward
        # Neither of the two keeps a policy alive that a sweep has let go of.
        self._at_exit = _DetachAtExit(self)
        atexit.register(self._at_exit)
        self._finalizer = weakref.finalize(self, _close_unattended, self.monitor, self._at_exit)
        self._finalizer.atexit = False

    @property
    def attached(self) -> bool:
        """Whether the policy is being monitored."""
        return self._forward is not None

    def is_of(self, policy: Any) -> bool:
        """Tell whether it is attached to this policy."""
        return self.attached and self._policy is policy

    @property
    def forward(self) -> Callable[..., Any]:
        """The monitored ``_forward_learn``, for mode views of the policy that were taken before."""
        if self._forward is None:
            raise RuntimeError('monitor: nothing is attached')
        return self._forward

    def description(self) -> Description:
        """Return what was found, as data."""
        if self._final is not None:
            return self._final
        assert self._adapter is not None
        points = self._points if self.attached else None
        return Description.of(self._policy, self._adapter, self.monitor, points, self._seen)

    def describe(self) -> str:
        """Return what was found, as a table; after a measured step it also says what was seen in it."""
        return describe(self.description())

    def say_if_never_called(self, sign: str) -> None:
        """Log that nothing has been measured so far, although there is a sign that something was trained."""
        if self._nothing.cause is not None:
            self._nothing.cause = f'{sign}, but {_NEVER_CALLED}'
            self._nothing.say()

    def detach(self, only_looked: bool = False) -> None:
        """Remove everything from the policy and publish the pending records, for at most ``close_timeout`` seconds.

        A learner step that is running is dropped; its hooks are removed when it ends.

        Arguments:
            only_looked: only :meth:`describe` was wanted, so it is no surprise that nothing was measured.
        """
        if only_looked:
            self._nothing.cause = None
        if self._forward is not None:
            if not self._running:
                # Some of what is described is known only when the last record is complete.
                self.monitor.close()
            self._final = self.description()
            if self._own_forward is None:
                self._policy.__dict__.pop('_forward_learn', None)
            else:
                self._policy._forward_learn = self._own_forward
            self._forward.release()
            self._forward = self._own_forward = None
            self._finalizer.detach()
            if self._running:
                self._steps.drop()
            else:
                self._let_go()
        if self._at_exit is not None:
            atexit.unregister(self._at_exit)
            self._at_exit = None
        self.monitor.close()
        self._nothing.say()

    def _let_go(self) -> None:
        self._policy = self._adapter = self._iteration_source = None
        del self._points, self._steps

    # -- one call of _forward_learn --------------------------------------------------------------------------------

    def run(self, forward_learn: Callable[..., Any], data: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one call of ``_forward_learn``, measured where it is due.

        Two calls at the same time, in two threads, are steps of the same parameters; neither is measured.
        """
        self._nothing.cause = None
        with self._entering:
            within, self._within = self._within, self._within + 1
            if not within:
                self._thread = threading.get_ident()
        try:
            if not within:
                return self._run_alone(forward_learn, data, args, kwargs)
            if self._thread != threading.get_ident():
                self._steps.spoil()
            self._steps_done += 1
            return forward_learn(data, *args, **kwargs)
        finally:
            with self._entering:
                self._within -= 1

    def _run_alone(
        self, forward_learn: Callable[..., Any], data: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        iteration = self._iteration(data, kwargs.get('train_iter'))
        step = self.monitor.begin_step(iteration)
        if step is INERT and self._steps.idle:
            self._steps_done += 1
            try:
                return forward_learn(data, *args, **kwargs)
            except Exception as error:
                self.monitor.note_exception(error)
                raise
        steps, self._data, self._running = self._steps, data, True
        try:
            with steps.block(iteration, step):
                output = forward_learn(data, *args, **kwargs)
        except Exception as error:
            self.monitor.note_exception(error)
            raise
        finally:
            self._data, self._running = None, False
            self._steps_done += steps.finished
            if self._forward is None:
                self._let_go()
        if self.monitor.config.merge_train_output:
            target = output[-1] if isinstance(output, list) else output
            target.update(self.monitor.take_local_scalars())
        return output

    def _iteration(self, data: Any, given: Any = None) -> int:
        # LightZero's multi-task policies are given it beside the data.
        if isinstance(given, int) and not isinstance(given, bool):
            return given
        if isinstance(data, (list, tuple)) and data and isinstance(data[-1], int) and not isinstance(data[-1], bool):
            return data[-1]
        if isinstance(data, Mapping) and isinstance(data.get('train_iter'), int):
            return int(data['train_iter'])
        # Learners that step several times before they count: the steps already done are added.
        base = 0 if self._iteration_source is None else int(self._iteration_source())
        if base != self._last_base:
            self._last_base, self._steps_done = base, 0
        return base + self._steps_done

    @contextlib.contextmanager
    def _observe(self, step: InertLearnerStep) -> Iterator[None]:
        if not isinstance(step, LearnerStep):
            # The step is not measured, but a policy that publishes may still report clipping.
            with contextlib.ExitStack() as undo:
                if isinstance(self._adapter, PublishingAdapter):
                    undo.enter_context(self._adapter.observe(step))
                yield
            return
        if self._adapter is None:
            yield
            return
        step.observed = not isinstance(self._adapter, PublishingAdapter)
        with self._adapter.observe(step, self._data):
            try:
                yield
            finally:
                self._seen.update(self.monitor.signals_of_step())


def _metrics_of(adapter: Adapter, metrics: Sequence[Metric]) -> Sequence[Metric]:
    return with_local_gradients(metrics) if adapter.gradient == LOCAL_GRADIENT else metrics


def _with_groups_of(adapter: Adapter, own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the user's groups and, after them, those of the adapter that have parameters left."""
    groups = dict(own)
    for name, spec in adapter.module_groups.items():
        if name in groups:
            continue
        try:
            find_groups(adapter.model, adapter.num_tasks, {**groups, name: spec})
        except GroupError:
            # Its parameters are in the user's own groups; the monitor reports mistakes in those.
            if not own:
                raise
        else:
            groups[name] = spec
    return groups


def _close_unattended(monitor: StepMonitor, at_exit: Callable[[], None]) -> None:
    atexit.unregister(at_exit)
    # Garbage is collected in whichever thread happens to run, and the monitor's own cannot wait for themselves.
    threading.Thread(target=monitor.close, name='ding_normmon closing', daemon=True).start()


class _DetachAtExit:
    def __init__(self, attachment: Attachment) -> None:
        self._attachment = weakref.ref(attachment)

    def __call__(self) -> None:
        attachment = self._attachment()
        if attachment is not None:
            attachment.detach()
