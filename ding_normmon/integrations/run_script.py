"""Running a script or a module as Python would, with the monitor on every learner that it builds."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import Any

from ding_normmon.integrations.run import monitored_run

__all__ = ['run_script']


def run_script(target: str, arguments: Sequence[str], is_module: bool, config: Mapping[str, Any]) -> None:
    """Run a program in this process; its exception or exit code is passed on.

    Arguments:
        target: the path of a script, or the name of a module.
        arguments: arguments of the program.
        is_module: whether ``target`` is a module, as with ``python -m``.
        config: keys of the monitor's configuration.

    Raises:
        ConfigurationError: an invalid key or value of ``config``.
    """
    # Remove the entries that Python has added for `normmon` itself.
    ours = ('', os.getcwd(), os.path.dirname(os.path.abspath(sys.argv[0])))
    while sys.path and sys.path[0] in ours:
        del sys.path[0]
    sys.path.insert(0, os.getcwd() if is_module else os.path.dirname(os.path.abspath(target)))
    sys.argv = [target, *arguments]
    with monitored_run(config) as run:
        if is_module:
            runpy.run_module(target, run_name='__main__', alter_sys=True)
        else:
            _run_file(os.path.abspath(target))
    if not run.lines:
        run.say('nothing was monitored: the program built no BaseLearner and no task pipeline, or trained none of them')


def _run_file(path: str) -> None:
    # runpy.run_path is not used: it changes sys.argv[0] and removes the module before exit handlers run.
    module = ModuleType('__main__')
    module.__file__, module.__loader__ = path, SourceFileLoader('__main__', path)
    sys.modules['__main__'] = module
    code = module.__loader__.source_to_code(module.__loader__.get_data(path), path)
    exec(code, vars(module))
