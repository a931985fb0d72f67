"""The command that installs what an optional part of the package needs."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution, requires

__all__ = ['install_command']


def install_command(extra: str) -> str:
    """Return the ``pip install`` line for the packages of an extra that are missing.

    It names the packages themselves: ``ding_normmon[report]`` is on no package index, and a path to a checkout depends
    on the folder that the line is pasted in.

    Arguments:
        extra: a key of ``extras_require`` in setup.py.

    Example:
        >>> install_command('history')
        'pip install pyarrow'
    """
    try:
        stated = requires('ding_normmon') or []
    except PackageNotFoundError:
        # The package is used from a folder on the path and was never installed.
        return f"pip install '.[{extra}]' (in the folder of the checkout)"
    wanted = [
        (match[1], f"'{match[1]}{match[2]}'" if match[2] else match[1])
        for line in stated
        if (match := re.fullmatch(rf'([\w.-]+) *([^; ]*) *;.*extra == [\'"]{extra}[\'"]', line))
    ]
    missing = [written for name, written in wanted if not _is_installed(name)]
    return 'pip install ' + ' '.join(missing or [written for _, written in wanted])


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
