"""Imports the package of a family of environments, or raises an error that says which one to install."""

from __future__ import annotations

from typing import Any

from ding_normmon.unizero.quiet import import_quietly

__all__ = ['require_package']


def require_package(module: str, package: str, needed_for: str) -> Any:
    """Import ``module``.

    Arguments:
        module: name of the module.
        package: its name for pip.
        needed_for: what needs it, for the message.

    Raises:
        ModuleNotFoundError: it is not installed; the message names the package to install.
    """
    import_quietly('gymnasium')  # first: ale-py and minigrid register themselves in a fully loaded gymnasium
    try:
        return import_quietly(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split('.')[0] != module.split('.')[0]:
            raise
        raise ModuleNotFoundError(
            f"{needed_for} needs the package {package!r}, which is not installed: pip install '{package}'", name=module
        ) from error
