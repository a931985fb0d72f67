"""Doing something with a module as soon as it has been imported, without importing it oneself."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ['after_import']


@contextlib.contextmanager
def after_import(functions: Mapping[str, Callable[[ModuleType], object]]) -> Iterator[None]:
    """Call a function with each module of a name, at once if it is there, else when the block imports it.

    A script that sets environment variables before it imports torch finds nothing imported before its time.

    >>> with after_import({'math': lambda module: print(module.floor(2.5))}):
    ...     pass
    2
    """
    for name, function in functions.items():
        if name in sys.modules:
            function(sys.modules[name])
    finder = _Finder({name: function for name, function in functions.items() if name not in sys.modules})
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    """Finds nothing itself: it takes what the others find, and has the module told of after it has run."""

    def __init__(self, functions: Mapping[str, Callable[[ModuleType], object]]) -> None:
        self._functions = functions

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self._functions:
            return None
        finders = [finder for finder in sys.meta_path if finder is not self]
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in finders)), None)
        if spec is None or spec.loader is None:
            return spec
        run, function = spec.loader.exec_module, self._functions[fullname]

        def run_and_tell(module: ModuleType) -> None:
            run(module)
            function(module)

        spec.loader.exec_module = run_and_tell  # type: ignore[method-assign]
        return spec
