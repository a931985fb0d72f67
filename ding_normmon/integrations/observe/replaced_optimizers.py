"""Noticing that an optimizer has taken the place of one that is watched, whose own steps then end."""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any

from torch.optim import Optimizer

from ding_normmon.core.observed_function import ObservedFunction, observed
from ding_normmon.integrations.observe.stepping_optimizers import stepping_optimizers

__all__ = ['replaced_optimizers_noticed']

_STEPS = 3
"""Steps of a successor without one of the watched optimizer. A wrapper of it steps too, but never more often."""

Notice = Callable[[str, Optimizer, int], object]


@contextlib.contextmanager
def replaced_optimizers_noticed(
    watched: Mapping[str, Optimizer], notice: Notice, another_steps: Callable[[Set[int]], object]
) -> Iterator[None]:
    """Call ``notice`` when another optimizer moves the parameters of a watched one that has stepped, and steps no more.

    One that was made since is its successor with its first step; any other after some steps in a row, more than there
    ever were between two steps of the watched one. If the earlier one steps again after all, it is the successor.

    Arguments:
        watched: the optimizers by name; ``notice`` may put the successor into it.
        notice: is given the name, the successor, which has just stepped, and how many steps of it were not watched.
        another_steps: is given the parameters (their ``id``) of every other optimizer that steps and holds some of the
            same.
    """
    lookout = _Lookout(watched, notice, another_steps)
    # The steps of all optimizers, of whatever class, end with a call of this function, which does nothing.
    step = ObservedFunction.of(getattr(Optimizer, '_optimizer_step_code', None))
    with observed([(step, lookout.around_step), (ObservedFunction.of(Optimizer.__init__), lookout.around_init)]):
        yield


class _Lookout:
    def __init__(
        self, watched: Mapping[str, Optimizer], notice: Notice, another_steps: Callable[[Set[int]], object]
    ) -> None:
        self._watched, self._notice, self._another_steps = watched, notice, another_steps
        self._names = {id(optimizer): name for name, optimizer in watched.items()}
        # By name, steps of others since the watched optimizer's last, and the most that it has come back after.
        self._silent_for: Counter[str] = Counter()
        self._usual: Counter[str] = Counter()
        self._stepped: set[str] = set()
        self._sharing: weakref.WeakKeyDictionary[Optimizer, set[str]] = weakref.WeakKeyDictionary()
        self._made: weakref.WeakKeyDictionary[Optimizer, set[str]] = weakref.WeakKeyDictionary()
        self._retired: weakref.WeakKeyDictionary[Optimizer, str] = weakref.WeakKeyDictionary()

    def around_init(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = call(*args, **kwargs)
        if args and self._stepped:
            self._made[args[0]] = set(self._stepped)
        return result

    def around_step(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._note(args[0])
        return call(*args, **kwargs)

    def _note(self, optimizer: Optimizer) -> None:
        name = self._names.get(id(optimizer))
        if name is not None:
            self._stepped.add(name)
            self._usual[name] = max(self._usual[name], self._silent_for.pop(name, 0))
        elif (name := self._retired.pop(optimizer, None)) is not None:
            self._usual[name] += _STEPS
            self._replace(name, optimizer, 1)
        else:
            if optimizer not in self._sharing:
                own = _parameters(optimizer)
                self._sharing[optimizer] = {name for name, other in self._watched.items() if own & _parameters(other)}
            if self._sharing[optimizer]:
                self._another_steps(_parameters(optimizer))
            for name in sorted(self._sharing[optimizer]):
                self._silent_for[name] += 1
                if name in self._stepped and self._silent_for[name] >= self._limit(name, optimizer):
                    self._replace(name, optimizer, self._silent_for.pop(name))

    def _limit(self, name: str, optimizer: Optimizer) -> int:
        if self._usual[name]:
            return _STEPS * (1 + self._usual[name])
        watched = self._watched[name]
        if name not in self._made.get(optimizer, ()) or watched in stepping_optimizers(optimizer):
            return _STEPS
        # It may have forgotten some of them by mistake; one besides the watched one holds few.
        parameters = _parameters(watched)
        return 1 if 2 * len(parameters & _parameters(optimizer)) > len(parameters) else _STEPS

    def _replace(self, name: str, successor: Optimizer, missed: int) -> None:
        earlier = self._watched[name]
        self._notice(name, successor, missed)
        self._retired[earlier] = name
        self._names = {id(optimizer): name for name, optimizer in self._watched.items()}
        self._sharing.clear()


def _parameters(optimizer: Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group['params']}
