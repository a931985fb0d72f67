"""``normmon``: the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

__all__ = ['main', 'resolve']


def main() -> None:
    """Run the command line; what is missing or wrong is said in one sentence."""
    try:
        import click
    except ImportError:
        sys.exit('normmon needs the package click: pip install "ding_normmon[cli]"')

    @click.group()
    def normmon() -> None:
        """Norm, gradient, logit and embedding curves for multi-task RL."""

    @normmon.command()
    @click.argument('target', metavar='MODULE:CALLABLE')
    def inspect(target: str) -> None:
        """Tell what the monitor finds on the policy that MODULE:CALLABLE returns: groups, signals, optimizers."""
        from ding_normmon.integrations.attachment import attach

        try:
            attachment = attach(resolve(target)(), {'monitor_norm_freq': 1})
            click.echo(attachment.describe())
            attachment.detach()
        except (ValueError, TypeError, ImportError, AttributeError, RuntimeError) as error:
            raise click.ClickException(str(error)) from error

    sys.path.insert(0, '')
    normmon()


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
