"""``normmon inspect``."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import click

from ding_normmon.cli.command import Command, Refused, say

__all__ = ['command', 'resolve']


@click.command('inspect', cls=Command)
@click.argument('target', metavar='MODULE:CALLABLE')
def command(target: str) -> None:
    """Tell what the monitor finds on the policy that MODULE:CALLABLE returns: groups, signals, optimizers."""
    from ding_normmon.integrations.attach import attach

    try:
        attachment = attach(resolve(target)(), {'monitor_norm_freq': 1})
        say(attachment.describe())
        attachment.detach(only_looked=True)
    except (ValueError, TypeError, ImportError, AttributeError, RuntimeError) as error:
        raise Refused(str(error)) from error


def resolve(target: str) -> Callable[[], Any]:
    """Return the object that ``module:name`` names.

    >>> resolve('math:floor') is __import__('math').floor
    True
    >>> resolve('math')
    Traceback (most recent call last):
        ...
    ValueError: expected MODULE:CALLABLE, such as my_project.policies:make_policy, got 'math'
    """
    module, separator, path = target.partition(':')
    if not separator or not module or not path:
        raise ValueError(f'expected MODULE:CALLABLE, such as my_project.policies:make_policy, got {target!r}')
    found: Any = import_module(module)
    for name in path.split('.'):
        found = getattr(found, name)
    if not callable(found):
        raise ValueError(f'{target} is no callable but a {type(found).__name__}')
    return found
