"""Import LightZero from a checkout of its git repository instead of from the installed package.

The environment variable ``LIGHTZERO_SRC`` names the checkout. It has to be put in place before anything imports
``lzero``, so whatever uses it runs in a process of its own. What a bare checkout lacks is filled in:

- the compiled search trees come from the installed package;
- packages that are imported at the top of a module and used by none of the learner steps here are replaced by empty
  stand-ins where they are not installed: ``nltk``, ``transformers`` and others, and ``LibMTL``, a fork that is not
  public, of which the multi-task policies import three classes for gradient correction.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

__all__ = ['SOURCE', 'use_checkout']

SOURCE = os.environ.get('LIGHTZERO_SRC')

NOT_NEEDED = {
    'LibMTL',
    'nltk',
    'transformers',
    'sentence_transformers',
    'langchain',
    'openai',
    'jericho',
    'rouge_score',
}


class _CompiledParts(MetaPathFinder):
    """Finds in the installed package what the checkout does not hold."""

    def __init__(self, installed: Path) -> None:
        self.installed = installed

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith('lzero.mcts.ctree.'):
            return None
        folder = self.installed.joinpath(*fullname.split('.')[1:-1])
        return PathFinder.find_spec(fullname, [str(folder)])


class _Empty(ModuleType):
    """A module in which every name is a class that does nothing."""

    __path__: Sequence[str] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)
        return mock.MagicMock


class _NotNeeded(MetaPathFinder, Loader):
    """Makes empty modules of packages that are not installed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname.split('.')[0] in NOT_NEEDED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def use_checkout() -> None:
    """Make ``import lzero`` find the checkout."""
    if SOURCE is None:
        raise RuntimeError('LIGHTZERO_SRC is not set')
    if 'lzero' in sys.modules:
        raise RuntimeError('lzero has been imported already')
    installed = importlib.util.find_spec('lzero')
    sys.path.insert(0, SOURCE)
    importlib.invalidate_caches()
    if installed is not None and installed.submodule_search_locations:
        sys.meta_path.append(_CompiledParts(Path(next(iter(installed.submodule_search_locations)))))
    # Last, so that a package that is installed is used.
    sys.meta_path.append(_NotNeeded())
