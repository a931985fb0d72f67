"""Imports other packages, and builds LightZero's models, without what they print."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

__all__ = ['import_quietly', 'quiet_construction']


def import_quietly(*modules: str) -> Any:
    """Import modules, suppress the warnings and messages of the imports, and return the last module.

    gym announces that it is unmaintained, gymnasium looks for plugins of packages that are too old or too new for it,
    DI-engine and LightZero list every optional package that is missing. None of this matters to a run that works, and
    an import that fails still raises. LightZero's world model sets the level of the root logger to DEBUG, so that every
    library of the process would log debug lines; the level is restored.

    Raises:
        ImportError: a module cannot be imported.
    """
    previous, level = logging.root.manager.disable, logging.root.level
    module = None
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter('ignore')
        logging.disable(logging.WARNING)
        try:
            for name in modules:
                module = importlib.import_module(name)
        finally:
            logging.disable(previous)
            logging.root.setLevel(level)
    return module


@contextlib.contextmanager
def quiet_construction() -> Iterator[None]:
    """Suppress what LightZero prints while a model is being built.

    Its constructors print one line per layer and two per head, hundreds of lines for a few tasks. Errors are raised
    as usual.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        yield
