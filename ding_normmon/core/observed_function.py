"""Observes the calls of a Python function, whatever name it is called by.

Replacing a module's attribute would miss a function that was imported by name, bound as a default argument or kept in a
``functools.partial``. All of these hold the same function object, so its code is exchanged while there are listeners,
and no name is changed.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FunctionType
from typing import Any

from ding_normmon.core.compiled import is_compiling

__all__ = ['Around', 'ObservedFunction', 'observed']

Around = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Is given the original function and the arguments of a call; makes the call, and returns what it returns."""

_lock = threading.RLock()
_numbered: list[ObservedFunction] = []


class ObservedFunction:
    """A function whose calls can be observed; without listeners they are as before.

    Arguments:
        function: any Python function.

    Attributes:
        original: the same function, whose calls are not observed.

    Example:
        >>> def double(number): return 2 * number
        >>> heard = []
        >>> def around(original, args, kwargs):
        ...     heard.append(args)
        ...     return original(*args, **kwargs)
        >>> with observed([(ObservedFunction.of(double), around)]):
        ...     double(4), heard
        (8, [(4,)])
        >>> double(4), heard
        (8, [(4,)])
    """

    _known: dict[FunctionType, ObservedFunction] = {}

    def __init__(self, function: FunctionType) -> None:
        self._function = function
        self._own_code = function.__code__
        self.original = FunctionType(
            function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
        )
        self.original.__kwdefaults__ = function.__kwdefaults__
        _numbered.append(self)
        self._code = _code_that_calls(len(_numbered) - 1, function.__code__)
        self._listeners: tuple[Around, ...] = ()

    @classmethod
    def of(cls, function: Any) -> ObservedFunction | None:
        """Return the one object for a function; None if it is not a Python function (written in C, a mock)."""
        if not isinstance(function, FunctionType):
            return None
        with _lock:
            known = cls._known.get(function)
            # Other code may have exchanged the function's code, too.
            if known is None or function.__code__ not in (known._own_code, known._code):
                known = cls._known[function] = cls(function)
            return known

    def add(self, listener: Around) -> None:
        """Call ``listener`` around every call from now on; the one that was added last is the outermost."""
        with _lock:
            if not self._listeners:
                self._function.__code__ = self._code
            self._listeners = (*self._listeners, listener)

    def remove(self, listener: Around) -> None:
        """Remove a listener, in any order; without listeners the function is as before."""
        with _lock:
            listeners = list(self._listeners)
            listeners.remove(listener)
            self._listeners = tuple(listeners)
            # Code that others have put there meanwhile stays.
            if not listeners and self._function.__code__ is self._code:
                self._function.__code__ = self._own_code

    def called(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a call, with all listeners around it."""
        listeners = self._listeners
        if not listeners:
            return self.original(*args, **kwargs)
        call: Callable[..., Any] = self.original
        for listener in listeners[:-1]:
            call = functools.partial(_nested, listener, call)
        return listeners[-1](call, args, kwargs)


def _nested(listener: Around, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return listener(call, args, kwargs)


@contextlib.contextmanager
def observed(pairs: Iterable[tuple[ObservedFunction | None, Around]]) -> Iterator[None]:
    """Listen to several functions until the block ends; those that are None are left out."""
    with contextlib.ExitStack() as undo:
        for function, listener in pairs:
            if function is not None:
                function.add(listener)
                undo.callback(function.remove, listener)
        yield


def call_number(number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make a call of the observed function of this number."""
    function = _numbered[number]
    # A compiler that traces the call must see the function alone.
    return function.original(*args, **kwargs) if is_compiling() else function.called(args, kwargs)


# It runs in place of a function of another module, so it cannot use names of this one.
_TEMPLATE = """
def enclosing({cells}):
    def template(*args, **kwargs):
        from ding_normmon.core.observed_function import call_number

        return call_number(-12345, args, kwargs)
        {cells}

    return template
"""


def _code_that_calls(number: int, instead_of: CodeType) -> CodeType:
    # Code may only be exchanged for code with as many variables of an enclosing function. The interpreter has to set
    # them up: it would crash under whoever looks at the frame's variables, as tools that show tracebacks do.
    cells = ', '.join(f'cell_{index}' for index in range(len(instead_of.co_freevars)))
    names: dict[str, Any] = {}
    exec(compile(_TEMPLATE.format(cells=cells), __file__, 'exec'), names)
    template: CodeType = names['enclosing'](*instead_of.co_freevars).__code__
    constants = tuple(number if constant == -12345 else constant for constant in template.co_consts)
    return template.replace(co_consts=constants, co_name=instead_of.co_name)
