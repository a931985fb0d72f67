"""The command line of a training run: its options, ``--set``, and error messages shared by all ranks."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import yaml
from easydict import EasyDict

from ding_normmon.core.config import ConfigurationError
from ding_normmon.core.parameter_groups import GroupError
from ding_normmon.core.terminal import never_fail
from ding_normmon.unizero.policy_config import flatten
from ding_normmon.unizero.ranks import (
    gather_objects,
    join_process_group,
    leave_process_group,
    local_rank,
    rank,
    world_size,
)
from ding_normmon.unizero.run_config import complete_config, tasks_of_ranks

__all__ = ['BAD_INPUT', 'BadInputError', 'build_config', 'check_agreement', 'parse_settings', 'training_command']

BAD_INPUT = 2
"""The exit code of a run with invalid options."""

OF_ONE_RANK = ('policy.task_ids',)
"""Keys whose value may differ between ranks."""


class BadInputError(Exception):
    """The user's options are invalid; the message is printed without a traceback."""


def training_command(main: Callable[[EasyDict], int | None], configs: Path, default: str) -> click.Command:
    """Return the command that reads the options, checks that all ranks have the same configuration and calls ``main``.

    Arguments:
        main: the training function; it gets the complete configuration and returns the exit code.
        configs: folder of the configurations, each a module with a ``config``.
        default: name of the configuration to use if none is given.
    """

    @click.command(context_settings={'help_option_names': ['-h', '--help']})
    @click.option('--config', 'name', default=default, show_default=True, help='A configuration in entry/configs.')
    @click.option('--exp-name', default=None, help='Folder of the run.  [default: runs/CONFIG]')
    @click.option('--max-train-iter', type=int, default=None, help='Learner iterations to train for.')
    @click.option('--seed', type=int, default=None, help='Seed of everything random.')
    @click.option('--resume', is_flag=True, help='Go on from the newest checkpoint in the folder of the run.')
    @click.option('--set', 'settings', multiple=True, metavar='KEY=VALUE', help='Any configuration key; repeatable.')
    def command(**options: Any) -> None:
        """Train multi-task UniZero with a norm monitor, in one process or under torchrun."""
        sys.exit(_run(main, configs, options))

    return command


def build_config(configs: Path, options: dict[str, Any], number_of_ranks: int, this_rank: int) -> EasyDict:
    """Return the complete configuration for some options.

    Raises:
        ValueError: an option is invalid; the message names it and the nearest valid value.
        ModuleNotFoundError: a package is missing; the message names it.
    """
    settings = parse_settings(options['settings'])
    config = _load_config(configs, options['name'])
    config['exp_name'] = str(Path('runs') / options['name'])
    for key in ('exp_name', 'max_train_iter', 'seed'):
        if options[key] is not None:
            settings[key] = options[key]
    if options['resume']:
        settings['resume'] = True
    complete = complete_config(config, settings, None)
    split = tasks_of_ranks(len(complete.tasks), number_of_ranks, complete.task_split)
    return complete_config(config, settings, split[this_rank])


def parse_settings(settings: tuple[str, ...]) -> dict[str, Any]:
    """Return ``KEY=VALUE`` options as a mapping; a value is read as a Python literal, else as YAML.

    Example:
        >>> parse_settings(('a.b=1e-3', 'c=[1, 2]', 'd=true', 'e=CartPole-v0'))
        {'a.b': 0.001, 'c': [1, 2], 'd': True, 'e': 'CartPole-v0'}
    """
    parsed: dict[str, Any] = {}
    for setting in settings:
        key, separator, text = setting.partition('=')
        if not separator or not key.strip():
            raise ConfigurationError(f'--set {setting}: expected KEY=VALUE, such as policy.batch_size=32')
        parsed[key.strip()] = _parse_value(text.strip())
    return parsed


def check_agreement(config: EasyDict) -> None:
    """Check that every rank has the same configuration; a collective.

    Raises:
        BadInputError: two ranks differ; the message names the first key that does. Raised on every rank.
    """
    flat = {key: repr(value) for key, value in flatten(config).items() if key not in OF_ONE_RANK}
    of_ranks = gather_objects(flat)
    for other, theirs in enumerate(of_ranks):
        for key in sorted(of_ranks[0].keys() | theirs.keys()):
            ours, other_value = of_ranks[0].get(key, 'nothing'), theirs.get(key, 'nothing')
            if ours != other_value:
                raise BadInputError(
                    f'the ranks disagree on the configuration: {key} is {ours} on rank 0 and {other_value} on rank '
                    f'{other}; start every rank with the same options'
                )


def share_error(problem: str | None) -> None:
    """Raise on every rank if there is a problem on any of them; a collective.

    Raises:
        BadInputError: at least one rank has a problem.
    """
    problems = gather_objects(problem)
    failed = [number for number, text in enumerate(problems) if text is not None]
    if failed:
        where = '' if len(failed) == len(problems) else f' (on rank {", ".join(map(str, failed))})'
        raise BadInputError(f'{problems[failed[0]]}{where}')


def _run(main: Callable[[EasyDict], int | None], configs: Path, options: dict[str, Any]) -> int:
    never_fail()
    problem: str | None = None
    config = EasyDict()
    try:
        config = build_config(configs, options, world_size(), rank())
    except (ValueError, TypeError, ModuleNotFoundError) as error:
        problem = str(error)
    # If one rank fails alone, the others would wait for it: so all join the group first, and then all exit.
    try:
        join_process_group()
        share_error(problem)
        check_agreement(config)
        if rank() == 0:
            ranks = world_size()
            print(f'{len(config.tasks)} tasks on {ranks} rank{"s" if ranks > 1 else ""}: {config.exp_name}')
            for number, name in enumerate(config.tasks):
                print(f'  {number} {name}', flush=True)
        return main(config) or 0
    except (BadInputError, ConfigurationError, GroupError) as error:
        if local_rank() == 0:
            print(f'error: {error}', file=sys.stderr, flush=True)
        return BAD_INPUT
    finally:
        leave_process_group()


def _load_config(configs: Path, name: str) -> dict[str, Any]:
    valid = sorted(path.stem for path in configs.glob('*.py') if not path.stem.startswith('_'))
    if name not in valid:
        nearest = difflib.get_close_matches(name, valid, n=1, cutoff=0.0)[0]
        raise ConfigurationError(
            f'--config {name}: no such configuration; the nearest is {nearest}, there are {", ".join(valid)}'
        )
    specification = importlib.util.spec_from_file_location(f'entry_config_{name}', configs / f'{name}.py')
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return dict(module.config)


def _parse_value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        pass
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
