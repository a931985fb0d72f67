"""Learner steps of something that does not know it is measured: where one ends and the next begins.

A learner step is what has moved the weights: every optimizer at most once. It ends where all have stepped. Optimizers
that do not step equally often (a delayed actor) leave its end open. Then another one has begun when one of them steps
again, or when something is called further up in the program than what has been seen of this one
(:mod:`~ding_normmon.integrations.observe.call_site`): the loop has begun again. As long as nobody can know whether all
step equally often, a step in which that happens is left out.

If nothing has stepped when the loop begins again, the step was skipped: what was measured of it is forgotten, and its
iteration is measured once more.
"""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from ding_normmon.core.backward_passes import reaches, several_threads
from ding_normmon.core.step import INERT, Clip, InertLearnerStep, LearnerStep
from ding_normmon.integrations.observe.call_site import CallSite
from ding_normmon.integrations.observe.hook_points import STEP_FUNCTION, HookPoints
from ding_normmon.integrations.observe.stepping import Holder
from ding_normmon.metrics.learner_steps import LearnerSteps
from ding_normmon.monitor.monitor import StepMonitor

__all__ = ['ObservedSteps']

logger = logging.getLogger('ding_normmon')

class _Nobody:
    """Listens to a learner step of which nothing is wanted any more."""

    def on_publish(self, name: str, tensor: Tensor, task_id: int | None, mask: Tensor | None) -> None: ...

    def on_publish_loss(self, name: str, value: Tensor | float, task_id: int | None) -> None: ...

    def on_left_out(self, what: str) -> None: ...

    def on_clip(self, clip: Clip) -> None: ...

    def on_hook_point(self, hook_point: str, step: LearnerStep) -> None: ...


_NOBODY = _Nobody()
_EVERYTHING = {'forward_end', 'backward_end', 'step_end'}
_HINT = 'With monitor.begin(iteration) at the top of the loop it is clear'
_MANY_SKIPPED = 100
"""Steps skipped in a row of which a warning is worth its line; a ``GradScaler`` finds its scale in fewer."""


class ObservedSteps:
    """Opens and closes the learner steps inside one watched block after another.

    Arguments:
        monitor: who measures.
        points: where the hook points of the current step come from.
        observe: publishes the signals of one due step while it is open; also given the steps that are merely watched.
        loop: a block is a whole training loop, of which only what has stepped is a learner step.
        whole: a block is one step, whatever happens in it: the policy says itself what belongs to it.

    Attributes:
        several: whether one block has several steps; None while no block has been seen.
        step: the current learner step, the inert one where none is due.
        iteration: of the current learner step; after a block, of the one that comes next.
        finished: learner steps of the current or last block.
        total: learner steps in which an optimizer has stepped, of all blocks.
    """

    def __init__(
        self,
        monitor: StepMonitor,
        points: HookPoints,
        observe: Callable[[InertLearnerStep], AbstractContextManager[None]],
        loop: bool = False,
        whole: bool = False,
    ) -> None:
        self._monitor = monitor
        self._points = points
        self._observe = observe
        self._loop = loop
        self._whole = whole
        self.several: bool | None = False if whole else True if loop else None
        # Whether somebody says where a learner step begins.
        self._told = False
        # Whether all optimizers step equally often, None while no step has ended; and which of them steps first then.
        self._equally: bool | None = None
        self._leader = ''
        self._unclear_turns: list[str] = []
        self._skipped_in_a_row = 0
        # A policy that publishes may fire all hook points itself; as long as it does, nobody looks from outside.
        self._says_everything = False
        self.step: InertLearnerStep = INERT
        self._open = contextlib.ExitStack()
        self.iteration = self.finished = self.total = 0
        self._spoilt = False
        self._forget_evidence()

    def _forget_evidence(self) -> None:
        # What has stepped, what has begun to, and what a scaler has left out; where the first of it was called.
        self._stepped: dict[str, None] = {}
        self._begun: set[str] = set()
        self._left_out: set[str] = set()
        self._first: CallSite | None = None
        self._clips: list[tuple[CallSite, Set[int]]] = []
        self._gradients: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._is_unclear = self._is_of_another = self._is_of_this_model = False

    @property
    def idle(self) -> bool:
        """Whether a block that is not due needs no watching."""
        return self.several is False and not self._monitor.watches_every_step and not self._points.scaled

    @contextlib.contextmanager
    def block(self, iteration: int, step: InertLearnerStep) -> Iterator[None]:
        """Watch one block, whose first learner step has this iteration; ``finished`` counts its steps afterwards."""
        self.iteration = iteration
        self._forget_evidence()
        self._skipped_here = self._spoilt = False
        self.finished = 0
        watched = contextlib.nullcontext() if self._says_everything else self._points.watched(self)
        try:
            with watched:
                self._enter(step)
                try:
                    yield
                    self._complete()
                finally:
                    self._leave(keep=self._is_worth_keeping())
        finally:
            known = bool(self._stepped or self.finished)
            if self._stepped or not self.finished:
                self.finished += 1
            self.total += bool(self._stepped)
            self.iteration += bool(self._stepped)
            if known and not self._whole and (self.several is None or self.finished > 1):
                self.several = self.finished > 1

    def _is_worth_keeping(self) -> bool:
        if self._stepped:
            return True
        # What was opened ahead of its time, and never began, is forgotten, and so is what was skipped. A block without
        # a step is part of a cycle of gradient accumulation, or has no optimizer that anybody knows.
        return not (self._loop or self.finished or self._was_skipped())

    def _was_skipped(self) -> bool:
        """Tell whether gradients were made ready for a step that no optimizer has made."""
        return self._skipped_here or bool(self._points.holders_watched and self._clips and not self._whole)

    def drop(self) -> None:
        """Forget the current step, and measure nothing more of this block."""
        self._monitor.drop_step(self.step)
        self._points.set_step(INERT)
        self.step = INERT

    def spoil(self) -> None:
        """Measure nothing more of this block: another thread has begun to train the same parameters."""
        self._spoilt = True
        self._mute(self.step)

    @staticmethod
    def _mute(step: InertLearnerStep) -> None:
        if isinstance(step, LearnerStep):
            step.listener = _NOBODY

    def replace(self, name: str, missed: int) -> int:
        """Leave out the current step, in which an optimizer that was not watched has stepped, and watch that one.

        Arguments:
            name: the optimizer in whose place it is.
            missed: its steps so far.

        Returns:
            The iteration of the first learner step that was not seen.
        """
        with self._points.lock:
            first = self.iteration
            self.drop()
            for holder in self._points.follow_optimizers():
                if holder.name == name:
                    # Of several optimizers the others have told the iterations.
                    self.iteration += missed - 1 if len(self._points.holders_watched) == 1 else 0
                    self.stepped(holder)
            return first

    def begin(self, iteration: int, told: bool = True) -> None:
        """Begin the learner step of this iteration, whatever has happened in the one before.

        Arguments:
            iteration: its iteration.
            told: from now on somebody says where a learner step begins, and nothing else decides that.
        """
        self._told = self._told or told
        if self._stepped:
            self._close()
        else:
            if self._clips or self._begun:
                self._note_skipped()
            self._monitor.drop_step(self.step)
            self._open.close()
        self.iteration = iteration
        self._forget_evidence()
        self._enter(self._monitor.begin_step(iteration))

    def look(self) -> bool:
        """Look whether the loop has begun again, and tell whether what is published now belongs to the current step."""
        if self._first is None or self._told or not CallSite().is_above(self._first):
            return True
        if self._stepped and self._equally is None:
            # It may as well be a loop over the optimizers, inside of one step.
            self._monitor.lost_data.count(
                'unclear_step',
                f'where learner step {self.iteration} ends was not clear when something was published; it was left '
                f'out. {_HINT}',
            )
            return False
        if self._has_begun_again() or (not self._stepped and len(self._points.holders_watched) == 1):
            self._go_on()
        return True

    def _has_begun_again(self) -> bool:
        """Tell whether another learner step has begun where something was called further up than this one's first."""
        if not self._stepped or self._equally:
            return False
        self._is_unclear = self._equally is None
        return not self._is_unclear

    def another_steps(self, parameters: Set[int]) -> None:
        """Take note of the step of an optimizer that is not watched, but holds some of the same parameters."""
        with self._points.lock:
            self._is_of_another = not self._begun and any(clipped <= parameters for _, clipped in self._clips)

    # -- StepListener ----------------------------------------------------------------------------------------------

    def differentiates(self, roots: Sequence[Any]) -> None:
        """Take note of a backward pass, which makes what was clipped for another optimizer that one's own."""
        if self._spoilt or self._whole:
            return
        if several_threads() and not reaches(roots, {id(entry) for entry in self._monitor.model.parameters()}):
            # Another thread trains another model.
            return
        if self._is_of_another:
            self._again()
        if self._follow_model() and not self._loop:
            # A policy that replaces a layer often makes a new optimizer for it; a loop's were given by name.
            self._points.follow_optimizers()

    def _follow_model(self) -> bool:
        """Begin the step anew where the model was changed since: in a loop it has begun when the last one ended."""
        if self._is_of_this_model or not self.step.due:
            return False
        has_changed = not self._begun and self._monitor.model_has_changed()
        if has_changed:
            self._again()
        self._is_of_this_model = True
        return has_changed

    def clips(self, parameters: Set[int]) -> None:
        """Take note of a clip call; it may be the first that is seen of another step."""
        if self._spoilt:
            return
        if self._whole:
            return
        self._follow_model()
        here = CallSite()
        if self._begun and here.passes(STEP_FUNCTION):
            return
        if not self._told and self._clip_begins_another(here, parameters):
            self._go_on()
        self._first = self._first or here
        self._clips.append((here, parameters))

    def _clip_begins_another(self, here: CallSite, parameters: Set[int]) -> bool:
        if self._first is None:
            return False
        is_above = here.is_above(self._first)
        if not self._stepped:
            return any((is_above or here.is_same(site)) and parameters & clipped for site, clipped in self._clips)
        moved = [holder.parameters for holder in self._points.holders_watched if holder.name in self._stepped]
        return parameters <= frozenset().union(*moved) or (is_above and self._has_begun_again())

    def steps(self, holder: Holder) -> None:
        """Take note of a step that begins; it may be the first that is seen of another one."""
        if self._spoilt:
            return
        if not self._whole:
            self._follow_model()
            here = CallSite() if len(self._points.holders_watched) > 1 else None
            if self._step_begins_another(here, holder):
                self._go_on()
            if self._equally and not self._begun and not self._left_out and holder.name != self._leader:
                # The one that steps first otherwise rests in this step.
                self._equally = False
            self._first = self._first or here
        self._begun.add(holder.name)

    def _step_begins_another(self, here: CallSite | None, holder: Holder) -> bool:
        if holder.name in self._begun and holder.name not in self._stepped:
            # It raised the last time, and whoever trains goes on.
            return True
        if self._told:
            return False
        if holder.name in self._stepped:
            return True
        if here is not None and self._first is not None and here.is_above(self._first) and self._has_begun_again():
            return True
        # Whoever trains the same parameters again, with another gradient, does not share a step of a loop; one call of
        # a policy is one iteration all the same.
        return self._loop and any(
            self._is_another(key, gradient) for key, gradient in self._points.shared_gradients_of(holder).items()
        )

    def _is_another(self, key: int, gradient: Tensor) -> bool:
        if key not in self._gradients:
            return False
        earlier, version = self._gradients[key]
        return earlier() is not gradient or version != gradient._version

    def stepped(self, holder: Holder) -> None:
        """Take note of a step that has moved the weights; with the last optimizer's the learner step ends."""
        if self._spoilt:
            return
        if self._loop:
            for key, gradient in self._points.shared_gradients_of(holder).items():
                self._gradients[key] = (weakref.ref(gradient), gradient._version)
        self._stepped[holder.name] = None
        self._skipped_in_a_row = 0
        if self._whole or self._told or not self._all_have_had_their_turn():
            return
        self._end_step()
        self._next()

    def skipped(self, holder: Holder) -> None:
        """Take note of a step that a scaler has left out."""
        if self._spoilt:
            return
        self._note_skipped()
        self._left_out.add(holder.name)
        if self._whole:
            return
        if not self._stepped:
            if len(self._left_out) == len(self._points.holders_watched):
                self._again()
        elif not self._told and self._all_have_had_their_turn():
            self._next()

    # -- from one step to the next ---------------------------------------------------------------------------------

    def _all_have_had_their_turn(self) -> bool:
        turns = self._stepped.keys() | self._left_out if self._left_out else self._stepped
        return len(turns) == len(self._points.holders_watched)

    def _end_step(self) -> None:
        if isinstance(self.step, LearnerStep) and 'step_end' not in self.step.fired:
            self.step.step_end()

    def _go_on(self) -> None:
        """Begin another learner step; the same one once more if nothing has moved the weights."""
        if self._stepped:
            self._next()
        else:
            if not self._left_out:
                self._note_skipped()
            self._again()

    def _note_skipped(self) -> None:
        self._skipped_here = True
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row == _MANY_SKIPPED:
            logger.warning(
                'monitor: the last %d steps before iteration %d were skipped, and moved no weights: the loss is not '
                'finite, or overflows at any scale',
                _MANY_SKIPPED,
                self.iteration,
            )
        for metric in self._monitor.metrics:
            if isinstance(metric, LearnerSteps):
                metric.note_skipped()

    def _again(self) -> None:
        self._open.close()
        self._monitor.drop_step(self.step)
        self._forget_evidence()
        self._enter(self._monitor.begin_step(self.iteration))

    def _next(self) -> None:
        self._close()
        self.iteration += 1
        self._forget_evidence()
        # A block of which one step is known may have another all the same; it is counted, not measured.
        self._enter(self._monitor.begin_step(self.iteration) if self.several is not False else INERT)

    def _close(self) -> None:
        if self._equally is not False and not self._told:
            self._learn()
        if self._is_unclear:
            steps = list(self._stepped)
            self._monitor.lost_data.count(
                'unclear_step',
                f'where learner step {self.iteration} ends was not clear, because {steps[-1]} stepped further '
                f'up in the program than {steps[0]}, which had stepped before; it was left out. {_HINT}',
            )
        # A gradient for which a scaler has left the step out has moved nothing, and may be infinite.
        self._leave(keep=not (self._is_unclear or (self._left_out and self._clips)))
        self.finished += 1
        self.total += 1

    def _learn(self) -> None:
        """Learn from a step that ends whether all optimizers step equally often."""
        turns = [*self._stepped, *self._left_out]
        if self._unclear_turns:
            # The step before may have ended elsewhere, and this one then began there; unless both are alike.
            self._equally = turns == self._unclear_turns
            self._is_unclear = not self._equally
        elif self._is_unclear:
            self._unclear_turns = turns
            return
        else:
            self._equally = self._all_have_had_their_turn()
        self._leader, self._unclear_turns = turns[0], []

    def _enter(self, step: InertLearnerStep) -> None:
        self.step = step
        if self._spoilt:
            self._mute(step)
        self._points.set_step(step)
        self._open = contextlib.ExitStack()
        if step is not INERT:
            self._open.enter_context(self._observe(step))

    def _complete(self) -> None:
        # No optimizer has stepped, as within a cycle of gradient accumulation: the weights are still those of the
        # forward pass, and the gradients will be read where the cycle ends.
        if isinstance(self.step, LearnerStep) and not self.step.fired and self._is_worth_keeping():
            self.step.forward_end()

    def _leave(self, keep: bool) -> None:
        self._open.close()
        step, self.step = self.step, INERT
        self._points.set_step(INERT)
        if isinstance(step, LearnerStep):
            if self._spoilt:
                self._monitor.drop_step(step)
                self._monitor.lost_data.count(
                    'concurrent_steps', 'two threads train the same parameters at the same time; left out'
                )
            elif keep:
                fires_all = self._whole and set(step.fired) >= _EVERYTHING
                self._says_everything = fires_all and (self._says_everything or not self._points.told)
                if self._stepped and 'step_end' not in step.fired:
                    step.step_end()
                self._monitor.end_step(step)
            else:
                self._monitor.drop_step(step)
