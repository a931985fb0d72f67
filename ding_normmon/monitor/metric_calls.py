"""Calling quantities: what they raise is kept from training, what they cost is added up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ding_normmon.core.lost_data import LossCounter
from ding_normmon.core.step import HOOK_POINTS, Clip, LearnerStep
from ding_normmon.metrics import Quantity
from ding_normmon.metrics.tensor_statistics import SignalError
from ding_normmon.rows.table import RowBuffer

__all__ = ['QuantityCalls', 'overriding']


def overriding(quantities: Sequence[Quantity], method: str) -> list[Quantity]:
    """Return the quantities whose class has something to do in a method.

    >>> from ding_normmon.metrics import TaskLosses, Updates
    >>> [quantity.name for quantity in overriding([TaskLosses(), Updates()], 'on_publish_loss')]
    ['task_losses']
    """
    return [quantity for quantity in quantities if getattr(type(quantity), method) is not getattr(Quantity, method)]


def _detaches(quantity: Quantity, method: str) -> bool:
    """Tell whether a method takes tensors with their graph: what its class says, not what others derive from that."""
    owner = next(kind for kind in type(quantity).__mro__ if method in vars(kind))
    return bool(vars(owner).get('detaches', False))


def _detached(value: Any) -> Any:
    # What is no tensor is for the quantity to complain about.
    return value.detach() if isinstance(value, Tensor) else value


class QuantityCalls:
    """The quantities of one rank during learner steps.

    Most quantities take part in few of the calls of a step, and there are dozens of calls; only those are called whose
    class has something to do then.

    Arguments:
        quantities: all quantities, in their order.
        losses: counts what failed.
        complain: takes note of a mistake in what was published.

    Attributes:
        active: the quantities that are measured in the current step.
        failed: names of those that failed while measuring it; what their cells hold is of an earlier step.
        spent: milliseconds of the learner's thread by name of quantity.
    """

    def __init__(self, quantities: Sequence[Quantity], losses: LossCounter, complain: Callable[[str], None]) -> None:
        self.losses = losses
        self._complain = complain
        self._watching = [quantity for quantity in quantities if quantity.every_step]
        self._keeping = overriding(quantities, 'state_bytes')
        self._names = [quantity.name for quantity in quantities]
        self._activate(quantities)
        self.failed: set[str] = set()
        self.spent: dict[str, float] = dict.fromkeys((quantity.name for quantity in quantities), 0.0)

    def _activate(self, quantities: Sequence[Quantity]) -> None:
        self.active = list(quantities)
        self._at_points = {point: [q for q in quantities if point in q.hook_points] for point in HOOK_POINTS}
        self._at_begin = overriding(quantities, 'begin')
        self._at_signals = [(q, _detaches(q, 'on_publish')) for q in overriding(quantities, 'on_publish')]
        self._at_losses = [(q, _detaches(q, 'on_publish_loss')) for q in overriding(quantities, 'on_publish_loss')]
        self._at_clips = overriding(quantities, 'on_clip')
        self._at_finish = overriding(quantities, 'finish')
        self._at_release = overriding(quantities, 'release')

    def start(self, quantities: Sequence[Quantity] | None) -> None:
        """Begin a step in which these are measured; None for those of the step before, which it completes."""
        if quantities is not None and quantities != self.active:
            self._activate(quantities)
        self.failed = set()
        self.spent = dict.fromkeys((quantity.name for quantity in self.active), 0.0)

    @property
    def reads_parts(self) -> bool:
        """Whether a quantity of this step reads the terms of the losses."""
        return any(quantity.reads_parts for quantity in self.active)

    def begin(self, step: LearnerStep) -> None:
        """Have quantities prepare for the step."""
        for quantity in self.active:
            quantity.extra_backward = 0
        for quantity in self._at_begin:
            self._call(quantity, 'begin', True, quantity.begin, step)

    def publish(self, name: str, tensor: Tensor, task_id: int | None, mask: Tensor | None, rows: RowBuffer) -> None:
        """Hand on a published tensor."""
        # Not by `_call`: there are hundreds of signals, and what they cost is the calls.
        for quantity, detaches in self._at_signals:
            started = time.perf_counter()
            try:
                if detaches:
                    quantity.on_publish(name, tensor, task_id, mask, rows)
                else:
                    with torch.no_grad():
                        quantity.on_publish(name, _detached(tensor), task_id, mask, rows)
            except Exception as error:
                self.fail(quantity, name, error)
            self.spent[quantity.name] += (time.perf_counter() - started) * 1e3

    def publish_loss(self, name: str, value: Tensor | float, task_id: int | None, rows: RowBuffer) -> None:
        """Hand on a published scalar."""
        for quantity, detaches in self._at_losses:
            started = time.perf_counter()
            try:
                quantity.on_publish_loss(name, value if detaches else _detached(value), task_id, rows)
            except Exception as error:
                self.fail(quantity, name, error)
            self.spent[quantity.name] += (time.perf_counter() - started) * 1e3

    def clip(self, clip: Clip, rows: RowBuffer) -> None:
        """Hand on a clipping of gradients."""
        for quantity in self._at_clips:
            self._call(quantity, 'clip', True, quantity.on_clip, clip, rows)

    def clip_of_any_step(self, clip: Clip) -> None:
        """Tell those that have asked for every step of a clipping in one that is not measured."""
        for quantity in self._watching:
            with self.guarded(quantity, 'clip', {}):
                quantity.on_clip_of_any_step(clip)

    def begin_any_step(self) -> None:
        """Tell those that have asked for every step that one begins."""
        for quantity in self._watching:
            try:
                quantity.begin_any_step()
            except Exception as error:
                self.fail(quantity, 'begin_any_step', error)

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Measure at a hook point."""
        for quantity in self._at_points.get(hook_point, ()):
            self._call(quantity, hook_point, True, quantity.measure, hook_point, step, rows)

    def finish(self, fired: Sequence[str], rows: RowBuffer) -> None:
        """Have quantities write what is known only when the step has ended."""
        for quantity in self._at_finish:
            if quantity.name not in self.failed and any(point in fired for point in quantity.hook_points):
                self._call(quantity, 'finish', True, quantity.finish, rows)

    def state_bytes(self) -> dict[str, int]:
        """Return what quantities keep between steps."""
        held = dict.fromkeys(self._names, 0)
        for quantity in self._keeping:
            try:
                held[quantity.name] = int(quantity.state_bytes())
            except Exception as error:
                self.fail(quantity, 'state_bytes', error)
        return held

    def release(self) -> float:
        """Have quantities drop what they hold of the step; return the milliseconds that their hooks have taken."""
        for quantity in self._at_release:
            self._call(quantity, 'release', False, quantity.release)
        milliseconds = 0.0
        for quantity in self.active:
            if quantity.hook_milliseconds:
                self.spent[quantity.name] += quantity.hook_milliseconds
                milliseconds += quantity.hook_milliseconds
                quantity.hook_milliseconds = 0.0
        return milliseconds

    def _call(self, quantity: Quantity, where: str, measuring: bool, function: Callable[..., None], *args: Any) -> None:
        # Not `guarded`: entering a context manager costs as much as the statistics of a small tensor.
        started = time.perf_counter()
        try:
            function(*args)
        except Exception as error:
            if measuring and not isinstance(error, SignalError):
                self.failed.add(quantity.name)
            self.fail(quantity, where, error)
        self.spent[quantity.name] += (time.perf_counter() - started) * 1e3

    @contextlib.contextmanager
    def guarded(self, quantity: Quantity, where: str, spent: dict[str, float]) -> Iterator[None]:
        """Keep a quantity's exceptions from whoever runs the block, and add its milliseconds to ``spent``."""
        started = time.perf_counter()
        try:
            yield
        except Exception as error:
            self.fail(quantity, where, error)
        finally:
            spent[quantity.name] = spent.get(quantity.name, 0.0) + (time.perf_counter() - started) * 1e3

    def fail(self, quantity: Quantity, where: str, error: Exception) -> None:
        """Count what a quantity has raised."""
        if isinstance(error, SignalError):
            self._complain(str(error))
            return
        self.losses.count(
            f'quantity_{quantity.name}',
            f'{quantity.name} failed at {where} with {type(error).__name__}: {error}; training goes on without it',
        )
