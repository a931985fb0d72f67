"""The monitor around a training loop of one's own: learner steps are told by the steps of the optimizers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from ding_normmon.core.config import ConfigurationError
from ding_normmon.core.step import INERT, InertLearnerStep
from ding_normmon.integrations.observe.hook_points import HookPoints
from ding_normmon.integrations.observe.observed_steps import ObservedSteps
from ding_normmon.integrations.observe.replaced_optimizers import replaced_optimizers_noticed
from ding_normmon.integrations.observe.stepping_optimizers import stepping_optimizers
from ding_normmon.metrics import Clipping, LearnerSteps

if TYPE_CHECKING:
    from ding_normmon.integrations.loop import Monitor

__all__ = ['TrainingLoop']


class TrainingLoop:
    """What ``with Monitor(model, config, optimizer=...)`` enters.

    A learner step ends when every optimizer has stepped and the next one begins there, so anything published before
    belongs to it; see :mod:`~ding_normmon.integrations.observe.observed_steps`. Clip calls through ``torch.nn.utils``
    are seen, and so is ``GradScaler``.

    Arguments:
        monitor: who measures.
        optimizers: one, several, or by name; also what wraps one.
        scaler: a gradient scaler that is not of torch's class.

    Attributes:
        is_running: whether it is inside of the ``with`` block.
        optimizers: the optimizers that are watched, by name.

    Raises:
        ConfigurationError: something that is no optimizer; optimizers none of which holds a parameter of the model.
    """

    def __init__(self, monitor: Monitor, optimizers: Any, scaler: Any = None) -> None:
        self.optimizers = _by_name(optimizers)
        metrics = monitor.metrics
        self._monitor = monitor
        self._points = HookPoints(
            lambda: monitor.groups,
            optimizers=lambda: self.optimizers,
            scalers=lambda: [] if scaler is None else [scaler],
            clipping=next((metric for metric in metrics if isinstance(metric, Clipping)), None),
            learner_steps=next((metric for metric in metrics if isinstance(metric, LearnerSteps)), None),
        )
        if not self._points.holders():
            raise ConfigurationError('monitor: none of the optimizers holds a parameter of the model')
        self._steps = ObservedSteps(monitor, self._points, self._observe, loop=True)
        self._step: InertLearnerStep = INERT
        self._first_iteration = 0
        self.is_running = False

    @property
    def learner_step(self) -> InertLearnerStep:
        """The current learner step, the inert one where none is measured."""
        return self._step if not self.is_running or self._steps.look() else INERT

    @property
    def next_iteration(self) -> int:
        """The iteration of the learner step that no optimizer has made yet."""
        return self._steps.iteration if self.is_running else self._first_iteration

    @property
    def steps_seen(self) -> int:
        """Learner steps in which an optimizer has stepped."""
        return self._steps.total

    @contextlib.contextmanager
    def _observe(self, step: InertLearnerStep) -> Iterator[None]:
        self._step = step
        try:
            yield
        finally:
            self._step = INERT

    def begin(self, iteration: int) -> None:
        """Begin the learner step of this iteration; from now on nothing else begins one."""
        self._steps.begin(iteration)

    def resume(self, iteration: int) -> None:
        """Count on from this iteration."""
        self._first_iteration = iteration
        if self.is_running:
            self._steps.begin(iteration, told=False)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Measure the learner steps that are due while the block runs."""
        first = self._first_iteration
        self.is_running = True
        try:
            with (
                replaced_optimizers_noticed(self.optimizers, self._replace, self._steps.another_steps),
                self._steps.block(first, self._monitor.begin_step(first)),
            ):
                yield
        finally:
            self._first_iteration = self._steps.iteration
            self.is_running = False

    def _replace(self, name: str, successor: Optimizer, missed: int) -> None:
        """Watch another optimizer in the place of one that steps no more."""
        earlier, later = type(self.optimizers[name]).__name__, type(successor).__name__
        self.optimizers[name] = successor
        first = self._steps.replace(name, missed)
        self._monitor.lost_data.count(
            'replaced_optimizer',
            f'{name} ({earlier}) steps no more; another optimizer ({later}) moves its parameters, and is measured in '
            f'its place from the next learner step on. The {missed} of its steps from iteration {first} on were left '
            f'out, because the monitor was not given it',
            amount=missed,
        )


def _by_name(given: Any) -> dict[str, Optimizer]:
    """Return the optimizers that step, by the name that the user gave or will recognise."""
    if isinstance(given, Mapping):
        named = dict(given)
    elif isinstance(given, Iterable):
        named = {f'optimizer_{index}': entry for index, entry in enumerate(given)}
    else:
        named = {'optimizer': given}
    found: dict[str, Optimizer] = {}
    for name, entry in named.items():
        inside = stepping_optimizers(entry)
        if not inside:
            raise ConfigurationError(
                f'monitor: {name} is no torch.optim.Optimizer, and holds none: {type(entry).__name__}; pass the '
                f'optimizer whose step() moves the weights'
            )
        for index, optimizer in enumerate(inside):
            if all(optimizer is not other for other in found.values()):
                found[name if len(inside) == 1 else f'{name}.{index}'] = optimizer
    return found
