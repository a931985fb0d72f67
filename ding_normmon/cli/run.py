"""``normmon run``."""

from __future__ import annotations

import ast
from typing import Any

import click

from ding_normmon.cli.command import Command, Refused

__all__ = ['command', 'read_settings']


@click.command('run', cls=Command, context_settings={'allow_interspersed_args': False})
@click.option(
    '--monitor',
    '--set',
    'settings',
    metavar='KEY=VALUE',
    multiple=True,
    help='A key of the monitor, such as monitor_norm_freq=100. May be given several times.',
)
@click.option('-m', 'is_module', is_flag=True, help='Run a module, as python -m does.')
@click.argument('program', metavar='SCRIPT')
@click.argument('arguments', metavar='[ARGS]...', nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(
    ctx: click.Context, settings: tuple[str, ...], is_module: bool, program: str, arguments: tuple[str, ...]
) -> None:
    """Run SCRIPT unchanged, with the monitor on every learner that it builds with LightZero or DI-engine.

    The keys given here override policy.monitor in the script's own configuration. On several ranks write --set, because
    torchrun takes --monitor for its own --monitor-interval: torchrun --nproc_per_node=2 -m ding_normmon run --set
    monitor_norm_freq=100 SCRIPT.
    """
    from pathlib import Path

    from ding_normmon.core.config import ConfigurationError, MonitorConfig

    try:
        config = read_settings(settings)
        MonitorConfig.read(config)
    except ConfigurationError as error:
        raise Refused(str(error)) from error
    if not is_module and not Path(program).is_file():
        raise Refused(f'{program}: there is no such file; a module is run with -m')

    def run() -> None:
        from ding_normmon.integrations.run_script import run_script

        run_script(program, arguments, is_module, config)

    # Not here: click has ways of its own to end on Ctrl-C and on broken pipes.
    ctx.obj.append(run)


def read_settings(settings: tuple[str, ...]) -> dict[str, Any]:
    """Return a configuration from words such as ``preset=full`` and ``rules.weight_jump=False``.

    Raises:
        ConfigurationError: no ``=``, or a key below a plain value.

    >>> read_settings(('monitor_norm_freq=10', 'preset=full', 'rules.weight_jump=false', "task_names=['Pong']"))
    {'monitor_norm_freq': 10, 'preset': 'full', 'rules': {'weight_jump': False}, 'task_names': ['Pong']}
    """
    from ding_normmon.core.config import ConfigurationError

    config: dict[str, Any] = {}
    for setting in settings:
        key, separator, value = setting.partition('=')
        if not separator:
            raise ConfigurationError(f'{setting}: expected KEY=VALUE, such as monitor_norm_freq=100')
        place = config
        *parents, last = key.split('.')
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigurationError(f'{setting}: {parent} was given a value before, and has no keys')
        place[last] = _plain(value)
    return config


def _plain(value: str) -> Any:
    words = {'true': True, 'false': False, 'none': None, 'null': None}
    if value.lower() in words:
        return words[value.lower()]
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value
