"""The hook points of a training step that does not fire them, seen from outside.

Where the gradients of an optimizer's parameters are final but not yet rescaled is told by the first of these:

1. the policy fires ``backward_end`` itself;
2. a clip function is called on some of them (``clip_calls.py``);
3. the optimizer is about to step (or a ``GradScaler`` is about to step it);
4. without any optimizer: a backward pass has ended, and no later one of the same step does.

Each parameter is reported exactly once in a step. With several optimizers those of one are reported at its own
evidence: what lies in another's ``.grad`` at that moment may be of an earlier step. An optimizer that does not step
(a delayed actor) has nothing to report.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ding_normmon.core.backward_passes import reaches, several_threads
from ding_normmon.core.parameter_groups import Group
from ding_normmon.core.step import INERT, InertLearnerStep, LearnerStep
from ding_normmon.integrations.observe.backward_calls import backward_calls_observed
from ding_normmon.integrations.observe.clip_calls import clip_calls_observed
from ding_normmon.integrations.observe.collectives import collectives_observed
from ding_normmon.integrations.observe.grad_scaler import LossScaling, scaler_steps_observed
from ding_normmon.integrations.observe.optimizer_steps import optimizer_steps_observed
from ding_normmon.integrations.observe.stepping import Holder, StepListener, Stepping, one_at_a_time
from ding_normmon.metrics.clipping import Clipping
from ding_normmon.metrics.learner_steps import LearnerSteps

__all__ = ['EVIDENCE', 'NO_OPTIMIZER', 'STEP_FUNCTION', 'HookPoints']

EVIDENCE = {
    'policy': 'the policy itself',
    'clip': 'clip call',
    'step': 'optimizer pre-step',
    'scaler': 'GradScaler.step',
    'backward': 'end of the last backward',
}
NO_OPTIMIZER = '(no optimizer)'
STEP_FUNCTION = torch.optim.Optimizer.profile_hook_step(lambda optimizer: None).__code__
"""The function of torch's in which all optimizers' steps run, and which calls their hooks."""


class HookPoints:
    """Fires the hook points of whatever step is current, while it is watched.

    Arguments:
        groups: tells its groups, after which what is clipped is named.
        optimizers: tells, whenever a step is watched, which optimizers there are.
        scalers: gradient scalers that are known; others are found when they step an optimizer.
        clipping: the metric that takes the clip coefficients.
        learner_steps: the metric that takes loss scales.
        local: whether every rank clips its own gradients before they are synchronised.

    Attributes:
        evidence: by which evidence each optimizer's gradients were found, by optimizer name; a key of ``EVIDENCE``.
        clips: the names under which clip coefficients were seen; False where a clip has no single coefficient.
        as_found: whether the last gradients were read when the optimizer stepped, because nobody saw a backward pass
            end or because ranks have exchanged something since; whether they had been clipped cannot be known then.
        told: whether something was learnt from outside in the current block that the policy had not said itself.
    """

    def __init__(
        self,
        groups: Callable[[], tuple[Group, ...]],
        optimizers: Callable[[], Mapping[str, Optimizer]],
        scalers: Callable[[], Iterable[Any]] = lambda: (),
        clipping: Clipping | None = None,
        learner_steps: LearnerSteps | None = None,
        local: bool = False,
    ) -> None:
        # What trains may have several threads, and whoever is heard of here is found by parameters, not by threads.
        self.lock = threading.RLock()
        self._groups = groups
        self._groups_known: tuple[Group, ...] = ()
        self._group_of: dict[int, str] = {}
        self._optimizers = optimizers
        self._scaling = LossScaling(scalers)
        self._clipping = clipping
        self._learner_steps = learner_steps
        self._local = local
        self._listener: StepListener | None = None
        self._steps_watched = contextlib.ExitStack()
        self._parameters: dict[int, nn.Parameter] = {}
        self.evidence: dict[str, str] = {}
        self.clips: dict[str, bool] = {}
        self._holders: tuple[Holder, ...] = ()
        self._shared_by: tuple[tuple[Holder, ...], frozenset[int]] = ((), frozenset())
        self.told = self.as_found = False
        self._known: tuple[Any, ...] = ()
        self._found: tuple[Holder, ...] = ()
        self.set_step(INERT)

    @property
    def holders_watched(self) -> tuple[Holder, ...]:
        """The optimizers of the block that is being watched."""
        return self._holders

    def holders(self) -> tuple[Holder, ...]:
        """Return the optimizers that hold monitored parameters; several may hold the same."""
        self._follow_groups()
        optimizers = self._optimizers()
        # Hundreds of parameters are not sorted out again as long as nobody has added one.
        known = tuple(
            (name, id(optimizer), *(len(group['params']) for group in optimizer.param_groups))
            for name, optimizer in optimizers.items()
        )
        if known != self._known:
            self._known, self._found = known, self._sort_out(optimizers)
        return self._found

    def _sort_out(self, optimizers: Mapping[str, Optimizer]) -> tuple[Holder, ...]:
        found = []
        for name, optimizer in optimizers.items():
            held = {id(parameter) for group in optimizer.param_groups for parameter in group['params']}
            if held := held & self._group_of.keys():
                found.append(Holder(name, optimizer, frozenset(held)))
        return tuple(found)

    def shared_gradients_of(self, holder: Holder) -> dict[int, Tensor]:
        """Return the present gradients of an optimizer's parameters that another one holds too."""
        shared = holder.parameters & self._shared() & self._parameters.keys()
        found = {key: self._parameters[key].grad for key in shared}
        return {key: gradient for key, gradient in found.items() if gradient is not None}

    def _shared(self) -> Set[int]:
        """Return the parameters that several of the watched optimizers hold."""
        if self._shared_by[0] is not self._holders:
            counts = Counter(key for holder in self._holders for key in holder.parameters)
            self._shared_by = (self._holders, frozenset(key for key, count in counts.items() if count > 1))
        return self._shared_by[1]

    @property
    def scaled(self) -> bool:
        """Whether there is a gradient scaler, which may leave steps out."""
        return bool(self._scaling.scalers())

    def _follow_groups(self) -> bool:
        """Take the groups as they are now; tell whether they are others than before."""
        groups = self._groups()
        if groups is self._groups_known:
            return False
        self._groups_known, self._known = groups, ()
        self._group_of = {id(parameter): group.key for group in groups for parameter in group.parameters}
        self._parameters = {id(parameter): parameter for group in groups for parameter in group.parameters}
        return True

    def set_step(self, step: InertLearnerStep) -> None:
        """Make another step the current one."""
        if self._follow_groups() and self._holders:
            self._holders = self.holders()
        self._step = step
        self._done: set[str] = set()
        self._clipped: set[int] = set()
        self._fired = 0
        self._is_read = False
        if isinstance(step, LearnerStep) and len(self._holders) > 1:
            step.awaited = frozenset().union(*(holder.parameters for holder in self._holders))

    @contextlib.contextmanager
    def watched(self, listener: StepListener) -> Iterator[None]:
        """Look for evidence until the block ends, and tell ``listener``; afterwards everything is as it was."""
        self._listener = listener
        self._holders = self.holders()
        self.told = False
        self.set_step(self._step)
        with contextlib.ExitStack() as undo:
            undo.callback(self._forget)
            undo.enter_context(clip_calls_observed(self))
            undo.enter_context(backward_calls_observed(self))
            undo.enter_context(collectives_observed(self))
            undo.callback(self._steps_watched.close)
            self._watch_steps(listener)
            yield

    def _watch_steps(self, listener: StepListener) -> None:
        pairs = [(holder.optimizer, Stepping(self, holder, listener)) for holder in self._holders]
        self._steps_watched.enter_context(optimizer_steps_observed(pairs))
        self._steps_watched.enter_context(scaler_steps_observed(pairs, self._scaling.scalers()))

    def follow_optimizers(self) -> tuple[Holder, ...]:
        """Watch the optimizers that there are now, in the middle of a block; return them."""
        self._holders = self.holders()
        if self._listener is not None:
            self._steps_watched.close()
            self._watch_steps(self._listener)
        return self._holders

    def _forget(self) -> None:
        self._holders = ()
        self._listener = None
        self.set_step(INERT)

    def note_step(self, holder: Holder, by_scaler: bool) -> None:
        """Take note of how an optimizer is stepped."""
        self._scaling.note(holder.optimizer, by_scaler)

    def note_scaler(self, holder: Holder, scaler: Any) -> None:
        """Take note of the scaler of an optimizer."""
        self._scaling.find(holder.optimizer, scaler)

    # -- evidence --------------------------------------------------------------------------------------------------

    def conclude(self, holders: Iterable[Holder], evidence: str) -> None:
        """Report the gradients of these optimizers' parameters, where they have not been reported in this step."""
        found = [holder for holder in holders if holder.name not in self._done]
        self._done.update(holder.name for holder in found)
        if not found or not self._step.due:
            return
        if self._fired_by_policy():
            self.evidence.update({holder.name: 'policy' for holder in found})
            return
        self.told = True
        self.evidence.update({holder.name: evidence for holder in found})
        self.as_found = evidence != 'clip' and not self._is_read
        if self.as_found and self._clipping is not None:
            self._clipping.note_as_found()
        if self._learner_steps is not None and (scale := self._scaling.scale()) is not None:
            self._learner_steps.note_scale(scale)
        for holder in found:
            parameters: set[int] | None = None
            if len(self._holders) > 1:
                parameters = self._final_of(holder)
                if not self._fired:
                    # Parameters of no optimizer go with the first.
                    parameters |= set(self._group_of) - set().union(*(other.parameters for other in self._holders))
            as_read = self._name_of(set(holder.parameters)) if self._is_read and evidence != 'clip' else None
            self._fire(self._scaling.of(holder.optimizer, evidence), parameters, as_read=as_read)

    def _final_of(self, holder: Holder) -> set[int]:
        """Return the parameters whose gradients are final where this optimizer's are."""
        shared = holder.parameters & self._shared()
        if not shared:
            return set(holder.parameters)
        to_come = set().union(*(other.parameters for other in self._holders if other.name not in self._done))
        # What another optimizer holds too, and has no gradient yet, gets it before that one steps.
        return {key for key in holder.parameters if not (key in shared & to_come and self._no_gradient(key))}

    def _no_gradient(self, key: int) -> bool:
        return self._parameters[key].grad is None

    def _fired_by_policy(self) -> bool:
        return isinstance(self._step, LearnerStep) and self._step.fired.count('backward_end') > self._fired

    def _fire(
        self, scale: Tensor | float, parameters: set[int] | None, replace: bool = False, as_read: str | None = None
    ) -> None:
        step = self._step
        if isinstance(step, LearnerStep) and 'forward_end' not in step.fired:
            step.forward_end()
        self._fired += 1
        step.backward_end(scale, parameters, replace, as_read)

    @one_at_a_time
    def before_clip(self, parameters: list[Tensor]) -> None:
        """Take a clip call as evidence."""
        self.told = True
        clipped = {id(parameter) for parameter in parameters} & self._group_of.keys()
        if clipped and self._listener is not None:
            self._listener.clips(clipped)
        if self._holders:
            self.conclude([holder for holder in self._holders if self._is_clipped(holder, clipped)], 'clip')
        elif clipped - self._clipped and self._step.due and not self._fired_by_policy():
            self.evidence[NO_OPTIMIZER] = 'clip'
            self._fire(1.0, clipped - self._clipped, replace=True)
            self._clipped |= clipped

    def _is_clipped(self, holder: Holder, clipped: Set[int]) -> bool:
        """Tell whether a clip call means the gradients of this optimizer."""
        own = holder.parameters - self._shared()
        return bool(own & clipped) if own else holder.parameters <= clipped

    @one_at_a_time
    def after_clip(self, parameters: list[Tensor], coefficient: Callable[[], Tensor | float] | None) -> None:
        """Take the coefficient of a clip call, where somebody wants it."""
        clipped = {id(parameter) for parameter in parameters} & set(self._group_of)
        if not clipped:
            return
        name = self._name_of(clipped)
        self.clips[name] = coefficient is not None
        clipping = self._clipping
        if coefficient is not None and clipping is not None and (self._step.due or clipping.every_step):
            clipping.add(name, coefficient(), self._local)

    def _name_of(self, clipped: set[int]) -> str:
        """Return ``model`` for a clip of everything that is trained, else the names of the groups in it."""
        trained = set().union(*(holder.parameters for holder in self._holders)) or set(self._group_of)
        # Parameters without a gradient are often left out of the call.
        groups = dict.fromkeys(key for parameter, key in self._group_of.items() if parameter in clipped)
        others = {key for parameter, key in self._group_of.items() if parameter in trained} - set(groups)
        return '+'.join(groups) if others else 'model'

    @one_at_a_time
    def backward_begins(self, roots: Sequence[Any]) -> dict[int, tuple[int, int]] | None:
        """Note what the gradients are, where they have been read before: that tells what the pass has reached."""
        if not self._step.due:
            return None
        if self._listener is not None:
            # The model may have other parameters now.
            self._listener.differentiates(roots)
        return self._gradients() if self._is_read and not self._is_elsewhere(roots) else None

    def _is_elsewhere(self, roots: Sequence[Any]) -> bool:
        """Tell whether a pass is about other models: another thread may be changing these gradients meanwhile."""
        return several_threads() and not reaches(roots, self._group_of.keys())

    @one_at_a_time
    def backward_ended(self, before: dict[int, tuple[int, int]] | None, roots: Sequence[Any]) -> None:
        """Read the gradients that a backward pass has reached; more of them may come."""
        if not self._step.due or self._fired_by_policy():
            return
        if self._is_elsewhere(roots):
            return
        reached: Set[int] | None = None
        if before is not None:
            after = self._gradients()
            reached = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        if self._holders:
            if reached is None or reached:
                self.read_gradients(reached)
            return
        rest = set(self._group_of) - self._clipped
        if rest:
            self.told = True
            self.evidence.setdefault(NO_OPTIMIZER, 'backward')
            self._fire(self._scaling.of(None, 'backward'), rest, replace=True)

    def compare(self, holder: Holder) -> None:
        """Find out what an optimizer of DI-engine's that clips by its moments has made of the gradients."""
        kinds = [getattr(holder.optimizer, name, None) for name in ('_grad_clip_type', '_grad_ignore_type')]
        if any('momentum' in str(kind) for kind in kinds) and isinstance(self._step, LearnerStep) and self._is_read:
            self._step.compare_gradients(holder.parameters, self._name_of(set(holder.parameters)))

    @one_at_a_time
    def collective(self) -> None:
        """Take what was read back: the ranks may be adding up their gradients, which is no clipping."""
        self._is_read = False

    def read_gradients(self, reached: Set[int] | None) -> None:
        """Read what these gradients (all of them: None) are now, where they have not been reported in this step."""
        if not isinstance(self._step, LearnerStep):
            return
        if self._done:
            to_come = [holder.parameters for holder in self._holders if holder.name not in self._done]
            reached = (self._group_of.keys() if reached is None else reached) & set().union(*to_come)
        self._is_read = True
        self._step.read_gradients(reached)

    def _gradients(self) -> dict[int, tuple[int, int]]:
        """Return what tells the present gradients from earlier and later ones."""
        found = {}
        for key, parameter in self._parameters.items():
            gradient = parameter.grad
            if gradient is not None:
                found[key] = id(gradient), gradient._version
        return found
