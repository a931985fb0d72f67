"""Learner steps of something that does not know it is measured: where one ends and the next begins.

One call of ``_forward_learn`` may be one learner step, whatever the number of its optimizers (SAC), or many (PPO makes
epochs of minibatches of it). An optimizer that steps a second time has begun another step; from then on every step is
known to end with the optimizer that had stepped last.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from ding_normmon.core.step import INERT, InertLearnerStep, LearnerStep
from ding_normmon.integrations.observe.hook_points import Holder, HookPoints
from ding_normmon.monitor.monitor import StepMonitor

__all__ = ['ObservedSteps']

_EVERYTHING = {'forward_end', 'backward_end', 'step_end'}


class ObservedSteps:
    """Opens and closes the learner steps inside one watched block after another.

    Arguments:
        monitor: who measures.
        points: where the hook points of the current step come from.
        observe: publishes the signals of one due step while it is open; also given the steps that are merely watched.
        last_optimizer: the optimizer with which a step ends, where that is known from the beginning.
        several: whether one block has several steps, where that is known from the beginning.
        whole: a block is one step, whatever happens in it: the policy says itself what belongs to it.

    Attributes:
        several: whether one block has several steps; None while no block has been seen.
        step: the current learner step, the inert one where none is due.
    """

    def __init__(
        self,
        monitor: StepMonitor,
        points: HookPoints,
        observe: Callable[[InertLearnerStep], AbstractContextManager[None]],
        last_optimizer: str | None = None,
        several: bool | None = None,
        whole: bool = False,
    ) -> None:
        self._monitor = monitor
        self._points = points
        self._observe = observe
        self._last_optimizer = last_optimizer
        # Otherwise it is a guess, and an optimizer that steps twice says that it was wrong.
        self._last_is_known = whole or last_optimizer is not None
        self.several = False if whole else several
        self._whole = whole
        # A policy that publishes may fire all hook points itself; as long as it does, nobody looks from outside.
        self._says_everything = False
        self.step: InertLearnerStep = INERT
        self._open = contextlib.ExitStack()
        self._stepped: list[str] = []
        self.finished = 0

    @property
    def idle(self) -> bool:
        """Whether a block that is not due needs no watching."""
        return self.several is False and not self._monitor.watches_every_step

    @contextlib.contextmanager
    def block(self, iteration: int, step: InertLearnerStep) -> Iterator[None]:
        """Watch one block, whose first learner step has this iteration; ``finished`` counts its steps afterwards."""
        self._iteration = iteration
        self._stepped = []
        self.finished = 0
        watched = (
            contextlib.nullcontext() if self._says_everything else self._points.watched(self._before, self._after)
        )
        try:
            with watched:
                self._enter(step)
                try:
                    yield
                    self._complete()
                finally:
                    # What was opened ahead of its time, and never began, is forgotten.
                    self._leave(keep=not self.finished or bool(self._stepped))
        finally:
            known = bool(self._stepped or self.finished)
            if self._stepped or not self.finished:
                self.finished += 1
            if known and not self._whole and (self.several is None or self.finished > 1):
                self.several = self.finished > 1

    def drop(self) -> None:
        """Forget the current step, and measure nothing more of this block."""
        self._monitor.drop_step(self.step)
        self._points.set_step(INERT)
        self.step = INERT

    def _before(self, holder: Holder) -> None:
        if holder.name in self._stepped and not self._last_is_known:
            # The step that has run is over, and its end was not known: from now on it is.
            self._last_optimizer = self._stepped[-1]
            self._next()
            self.several = True

    def _after(self, holder: Holder) -> None:
        self._stepped.append(holder.name)
        if len(self._stepped) == len(self._points.holders_watched) and not self._whole:
            self._end_step()
        if self._whole:
            return
        if self._last_optimizer is None and len(self._points.holders_watched) == 1:
            self._last_optimizer = holder.name
        if holder.name == self._last_optimizer:
            self._next()

    def _end_step(self) -> None:
        if isinstance(self.step, LearnerStep) and 'step_end' not in self.step.fired:
            self.step.step_end()

    def _next(self) -> None:
        self._leave(keep=True)
        self.finished += 1
        self._iteration += 1
        self._stepped = []
        # A block of which one step is known may have another all the same; it is counted, not measured.
        self._enter(self._monitor.begin_step(self._iteration) if self.several is not False else INERT)

    def _enter(self, step: InertLearnerStep) -> None:
        self.step = step
        self._points.set_step(step)
        self._open = contextlib.ExitStack()
        if step is not INERT:
            self._open.enter_context(self._observe(step))

    def _complete(self) -> None:
        # No optimizer has stepped, as within a cycle of gradient accumulation: the weights are still those of the
        # forward pass, and the gradients will be read where the cycle ends.
        if isinstance(self.step, LearnerStep) and not self.finished and not self.step.fired:
            self.step.forward_end()

    def _leave(self, keep: bool) -> None:
        self._open.close()
        step, self.step = self.step, INERT
        self._points.set_step(INERT)
        if isinstance(step, LearnerStep):
            if keep or step.fired:
                fires_all = self._whole and set(step.fired) >= _EVERYTHING
                self._says_everything = fires_all and (self._says_everything or not self._points.told)
                if self._stepped and 'step_end' not in step.fired:
                    step.step_end()
                self._monitor.end_step(step)
            else:
                self._monitor.drop_step(step)
