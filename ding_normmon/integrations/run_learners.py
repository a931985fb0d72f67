"""``monitored_run`` for DI-engine's ``BaseLearner``, which all of LightZero's entries build."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ding_normmon.core.config import MonitorConfig
    from ding_normmon.integrations.attach import Attachment
    from ding_normmon.integrations.run import MonitoredRun

__all__ = ['LearnerWatch']


class LearnerWatch:
    """Gives every learner that is constructed a hook.

    Arguments:
        run: the monitored run.
    """

    def __init__(self, run: MonitoredRun) -> None:
        self._run = run
        self._learners: list[_WatchedLearner] = []
        self.modules: Mapping[str, Callable[[ModuleType], None]] = {'ding.worker.learner.base_learner': self._watch}

    def _watch(self, module: ModuleType) -> None:
        construct = module.BaseLearner.__init__

        @functools.wraps(construct)
        def constructed(learner: Any, *args: Any, **kwargs: Any) -> None:
            construct(learner, *args, **kwargs)
            self._learners.append(_WatchedLearner(self._run, learner))

        self._run.replace(module.BaseLearner, '__init__', constructed)

    def has(self, policy: Any) -> bool:
        """Tell whether one of the learners has this policy."""
        return any(learner.policy is policy for learner in self._learners)

    def close(self) -> None:
        """Take everything off the learners."""
        for learner in self._learners:
            learner.close()


class _WatchedLearner:
    """Puts the monitor on one learner at its first iteration, when it has its policy and its writer."""

    def __init__(self, run: MonitoredRun, learner: Any) -> None:
        self._run = run
        self._learner = weakref.ref(learner)
        self._hook: Any = None
        if self.policy is not None:
            run.configuration_of(self.policy)  # a mistake in it ends the run before anything is trained
        self._first = _first_iteration(self._put_on)
        learner.register_hook(self._first)

    @property
    def policy(self) -> Any:
        """The learner's policy; None as long as it has none."""
        view = getattr(self._learner(), '_policy', None)
        return getattr(getattr(view, 'forward', None), '__self__', None)

    def _put_on(self, learner: Any) -> None:
        from ding_normmon.integrations.ding_engine.learner_hook import NormMonitorHook

        self._take_off(learner)
        policy = self.policy

        def put(config: MonitorConfig) -> Attachment:
            names, whole = self._run.configurations.task_names(), self._run.configurations.of(policy)
            self._hook = NormMonitorHook(config, name='normmon_run', task_names=names, configuration=whole)
            self._hook(learner)
            attachment: Attachment = self._hook.attachment
            return attachment

        self._run.put_on(policy, f'learner {learner.instance_name!r}', put)

    def _take_off(self, learner: Any) -> None:
        # A new list: BaseLearner may be going through the old one.
        learner._hooks['before_iter'] = [hook for hook in learner._hooks['before_iter'] if hook is not self._first]

    def close(self) -> None:
        """Take everything off the learner."""
        learner = self._learner()
        if learner is not None:
            self._take_off(learner)
        if self._hook is not None:
            self._hook.close()


def _first_iteration(function: Callable[[Any], None]) -> Any:
    """Return a learner hook; DI-engine's base class is there when a learner is."""
    from ding.worker.learner.learner_hook import LearnerHook

    class FirstIteration(LearnerHook):
        def __call__(self, engine: Any) -> None:
            function(engine)

    # Behind a monitor of the configuration file.
    return FirstIteration('normmon_run', 31, position='before_iter')
