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
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ding_normmon.core.parameter_groups import Group
from ding_normmon.core.step import INERT, InertLearnerStep, LearnerStep
from ding_normmon.integrations.observe.clip_calls import clip_calls_observed
from ding_normmon.integrations.observe.grad_scaler import LossScaling, scaler_steps_observed
from ding_normmon.metrics.clipping import Clipping

__all__ = ['EVIDENCE', 'NO_OPTIMIZER', 'Holder', 'HookPoints']

EVIDENCE = {
    'policy': 'the policy itself',
    'clip': 'clip call',
    'step': 'optimizer pre-step',
    'scaler': 'GradScaler.step',
    'backward': 'end of the last backward',
}
NO_OPTIMIZER = '(no optimizer)'


@dataclass(frozen=True)
class Holder:
    """An optimizer and the monitored parameters that it holds (their ``id``)."""

    name: str
    optimizer: Optimizer
    parameters: frozenset[int]


class HookPoints:
    """Fires the hook points of whatever step is current, while it is watched.

    Arguments:
        model: the monitored model.
        groups: tells its groups, after which what is clipped is named.
        optimizers: tells, whenever a step is watched, which optimizers there are.
        modules: modules that may have imported clip functions by name.
        scalers: ``torch.amp.GradScaler`` objects.
        clipping: the metric that takes the clip coefficients.
        local: whether every rank clips its own gradients before they are synchronised.

    Attributes:
        evidence: by which evidence each optimizer's gradients were found, by optimizer name; a key of ``EVIDENCE``.
        clips: the names under which clip coefficients were seen; False where a clip has no single coefficient.
        told: whether something was learnt from outside in the current block that the policy had not said itself.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Callable[[], tuple[Group, ...]],
        optimizers: Callable[[], Mapping[str, Optimizer]],
        modules: Callable[[Iterable[Optimizer]], Iterable[ModuleType]] = lambda optimizers: (),
        scalers: Callable[[], Iterable[Any]] = lambda: (),
        clipping: Clipping | None = None,
        local: bool = False,
    ) -> None:
        self._model = model
        self._groups = groups
        self._groups_known: tuple[Group, ...] = ()
        self._group_of: dict[int, str] = {}
        self._optimizers = optimizers
        self._modules = modules
        self._scaling = LossScaling(scalers)
        self._clipping = clipping
        self._local = local
        self.evidence: dict[str, str] = {}
        self.clips: dict[str, bool] = {}
        self._holders: tuple[Holder, ...] = ()
        self.told = False
        self._known: tuple[Any, ...] = ()
        self._found: tuple[Holder, ...] = ()
        self.set_step(INERT)

    @property
    def holders_watched(self) -> tuple[Holder, ...]:
        """The optimizers of the block that is being watched."""
        return self._holders

    def holders(self) -> tuple[Holder, ...]:
        """Return the optimizers that hold monitored parameters; who holds a parameter first, has it."""
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
        free = set(self._group_of)
        found = []
        for name, optimizer in optimizers.items():
            held = {id(parameter) for group in optimizer.param_groups for parameter in group['params']} & free
            if held:
                free -= held
                found.append(Holder(name, optimizer, frozenset(held)))
        return tuple(found)

    def _follow_groups(self) -> bool:
        """Take the groups as they are now; tell whether they are others than before."""
        groups = self._groups()
        if groups is self._groups_known:
            return False
        self._groups_known, self._known = groups, ()
        self._group_of = {id(parameter): group.key for group in groups for parameter in group.parameters}
        return True

    def set_step(self, step: InertLearnerStep) -> None:
        """Make another step the current one."""
        if self._follow_groups() and self._holders:
            self._holders = self.holders()
        self._step = step
        self._done: set[str] = set()
        self._failed: set[str] = set()
        self._clipped: set[int] = set()
        self._fired = 0
        self._queued = False
        if isinstance(step, LearnerStep) and len(self._holders) > 1:
            step.awaited = frozenset().union(*(holder.parameters for holder in self._holders))

    @contextlib.contextmanager
    def watched(self, before: Callable[[Holder], None], after: Callable[[Holder], None]) -> Iterator[None]:
        """Look for evidence until the block ends; afterwards everything is as it was.

        Arguments:
            before: called when an optimizer is about to step.
            after: called when it has stepped.
        """
        self._holders = self.holders()
        self.told = False
        self.set_step(self._step)
        optimizers = [holder.optimizer for holder in self._holders]
        with contextlib.ExitStack() as undo:
            undo.callback(self._forget)
            undo.enter_context(clip_calls_observed(self, self._modules(optimizers)))
            for holder in self._holders:
                stepping = _Stepping(self, holder, before, after)
                undo.callback(holder.optimizer.register_step_pre_hook(stepping.enter).remove)
                undo.callback(holder.optimizer.register_step_post_hook(stepping.leave).remove)
                for scaler in self._scaling.scalers():
                    undo.enter_context(scaler_steps_observed(scaler, holder.optimizer, stepping))
            if not self._holders:
                for parameter in self._model.parameters():
                    if parameter.requires_grad and parameter.is_leaf:
                        handle = parameter.register_post_accumulate_grad_hook(self._backward_runs)
                        undo.callback(handle.remove)
            yield

    def _forget(self) -> None:
        self._holders = ()
        self.set_step(INERT)

    def note_step(self, holder: Holder, by_scaler: bool) -> None:
        """Take note of how an optimizer is stepped."""
        self._scaling.note(holder.optimizer, by_scaler)

    def forget_attempt(self, holder: Holder) -> None:
        """Forget what was concluded for a step of the optimizer that raised; another attempt has begun."""
        self._done.discard(holder.name)
        self._failed.add(holder.name)

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
        for holder in found:
            scale = self._scaling.of(holder.optimizer, evidence)
            parameters: set[int] | None = None
            if len(self._holders) > 1:
                parameters = set(holder.parameters)
                if not self._fired:
                    # Parameters of no optimizer go with the first.
                    parameters |= set(self._group_of) - set().union(*(other.parameters for other in self._holders))
            self._fire(scale, parameters, replace=holder.name in self._failed)

    def _fired_by_policy(self) -> bool:
        return isinstance(self._step, LearnerStep) and self._step.fired.count('backward_end') > self._fired

    def _fire(self, scale: Tensor | float, parameters: set[int] | None, replace: bool = False) -> None:
        step = self._step
        if isinstance(step, LearnerStep) and 'forward_end' not in step.fired:
            step.forward_end()
        self._fired += 1
        step.backward_end(scale, parameters, replace)

    def before_clip(self, parameters: list[Tensor]) -> None:
        """Take a clip call as evidence."""
        self.told = True
        clipped = {id(parameter) for parameter in parameters} & set(self._group_of)
        if self._holders:
            self.conclude([holder for holder in self._holders if holder.parameters & clipped], 'clip')
        elif clipped - self._clipped and self._step.due and not self._fired_by_policy():
            self.evidence[NO_OPTIMIZER] = 'clip'
            self._fire(1.0, clipped - self._clipped, replace=True)
            self._clipped |= clipped

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

    def _backward_runs(self, parameter: Tensor) -> None:
        # The engine calls back once per backward pass, after the last gradient, if it was asked to while it ran.
        if self._step.due and not self._queued:
            self._queued = True
            torch.autograd.Variable._execution_engine.queue_callback(self._backward_ended)

    def _backward_ended(self) -> None:
        self._queued = False
        rest = set(self._group_of) - self._clipped
        if rest and self._step.due and not self._fired_by_policy():
            self.told = True
            self.evidence.setdefault(NO_OPTIMIZER, 'backward')
            self._fire(self._scaling.of(None, 'backward'), rest, replace=True)


class _Stepping:
    """One optimizer's steps: DI-engine's own call ``step`` inside ``step``, and then its hooks run twice."""

    def __init__(
        self, points: HookPoints, holder: Holder, before: Callable[[Holder], None], after: Callable[[Holder], None]
    ) -> None:
        self._points = points
        self._watched = holder
        self._before = before
        self._after = after
        self._depth = 0
        self._scaler_steps = False
        self._stepped = False

    @property
    def _holder(self) -> Holder:
        # Its parameters are others where the model's were replaced.
        name = self._watched.name
        return next((holder for holder in self._points.holders_watched if holder.name == name), self._watched)

    def enter(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Begin a step of the optimizer; return its arguments where one of them has to be another."""
        if self._depth and not _is_nested():
            # The last step raised, of which its hooks are not told, and whoever trains goes on.
            self._depth = 0
            self._points.forget_attempt(self._holder)
        self._depth += 1
        if self._depth > 1 or self._scaler_steps:
            return None
        # The hook is given the optimizer itself as the first argument as well.
        closure = kwargs.get('closure', args[1] if len(args) > 1 else None)
        if not callable(closure):
            self._begin('step')
            return None
        # Its gradients do not exist before it has been called; where it clips them, the clip call comes first.
        self._points.note_step(self._holder, by_scaler=False)
        self._before(self._holder)
        watched = self._watched_closure(closure)
        if 'closure' in kwargs:
            return args, {**kwargs, 'closure': watched}
        return (args[0], watched, *args[2:]), kwargs

    def _watched_closure(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def evaluate() -> Any:
            loss = closure()
            # Further evaluations, as LBFGS makes them, are at other weights than those of the learner step.
            self._points.conclude([self._holder], 'step')
            return loss

        return evaluate

    def leave(self, *_: Any) -> None:
        """End a step of the optimizer."""
        self._depth -= 1
        if self._depth == 0 and not self._scaler_steps:
            self._after(self._holder)

    def enter_scaler(self) -> None:
        """Begin the scaler's step, which may leave the optimizer's out."""
        self._begin('scaler')
        self._scaler_steps = True

    def leave_scaler(self) -> None:
        """End the scaler's step."""
        self._scaler_steps = False
        self._after(self._holder)

    def _begin(self, evidence: str) -> None:
        self._points.note_step(self._holder, by_scaler=evidence == 'scaler')
        self._before(self._holder)
        self._points.conclude([self._holder], evidence)


def _is_nested() -> bool:
    """Tell, in a hook of a step, whether that step was called from within another one."""
    # All optimizers' steps run in one function of torch's, which calls the hooks.
    frame = sys._getframe(2)
    code, outer = frame.f_code, frame.f_back
    while outer is not None and outer.f_code is not code:
        outer = outer.f_back
    return outer is not None
