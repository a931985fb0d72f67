"""What a stream of a history file says of its run."""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from ding_normmon.core.figures import Figures
from ding_normmon.runs.declarations import plain_figures, read_figures

__all__ = ['LARGEST_TASK', 'Header', 'about_this_run', 'read_header', 'task_names']

LARGEST_TASK = 1 << 20
"""Task ids beyond it are a mistake, or meant to do harm."""


@dataclass(frozen=True)
class Header:
    """The description of a stream, written before its records.

    Arguments:
        tasks: global task id to name.
        configuration: the run's, as plain values.
        replaces_from: iteration from which on this stream replaces the records of earlier ones, because it measured
            them again. None if it continues what the same process wrote before.
        rules: which rules have judged the records; see :func:`~ding_normmon.runs.judge.rules_of_today`.
        version: of the format.
        figures: the declarations of the run's own metrics, those that are not from this package.
        about: see :func:`about_this_run`.
    """

    tasks: Mapping[int, str] = field(default_factory=dict)
    configuration: Mapping[str, Any] = field(default_factory=dict)
    replaces_from: int | None = None
    rules: str = ''
    version: int = 0
    figures: Figures = field(default_factory=Figures, compare=False, repr=False)
    about: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return it as plain values, as it is written."""
        return {
            'tasks': dict(self.tasks),
            'configuration': self.configuration,
            'replaces_from': self.replaces_from,
            'rules': self.rules,
            'figures': plain_figures(self.figures),
            'about': dict(self.about),
        }


def read_header(text: str | bytes | None) -> Header | None:
    """Return a header from plain values; unexpected entries are left out. None if it is no header.

    Example:
        >>> read_header('{"version": 7, "tasks": {"0": "Pong", "x": "?"}, "new": 1}')
        Header(tasks={0: 'Pong'}, configuration={}, replaces_from=None, rules='', version=7, about={})
        >>> read_header('[1]') is None
        True
    """
    if text is None:
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    configuration, version, begin, about = (
        content.get(key) for key in ('configuration', 'version', 'replaces_from', 'about')
    )
    return Header(
        task_names(content.get('tasks')),
        configuration if isinstance(configuration, dict) else {},
        begin if _is_integer(begin) else None,
        str(content.get('rules') or '')[:100],
        version if isinstance(version, int) and _is_integer(version) else 0,
        read_figures(content.get('figures')),
        about if isinstance(about, dict) else {},
    )


def about_this_run() -> dict[str, Any]:
    """Return the number of ranks of this process's run, and the versions of what it trains with.

    Example:
        >>> sorted(about_this_run())
        ['ranks', 'versions']
    """
    import torch.distributed as dist

    versions = {'Python': platform.python_version()}
    for package in ('torch', 'DI-engine', 'LightZero', 'ding_normmon'):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    is_distributed = dist.is_available() and dist.is_initialized()
    return {'ranks': dist.get_world_size() if is_distributed else 1, 'versions': versions}


def task_names(content: Any) -> dict[int, str]:
    """Return names by global task id from what was read as JSON, without what cannot be one.

    Example:
        >>> task_names({'1': 'Pong', '-1': 'no', '9' * 400: 'no', 'x': 'no'})
        {1: 'Pong'}
    """
    if not isinstance(content, Mapping):
        return {}
    known = {}
    for key, name in content.items():
        digits = str(key)
        if digits.isascii() and digits.isdigit() and len(digits) < 8 and int(digits) <= LARGEST_TASK:
            known[int(digits)] = str(name)
    return known


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
