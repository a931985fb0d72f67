"""Wrong options get one message that says what, where and the nearest valid value, and a non-zero exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from ding_normmon.unizero.command_line import BAD_INPUT, parse_settings, training_command
from ding_normmon.unizero.run_config import complete_config

CONFIGS = Path(__file__).parents[2] / 'entry' / 'configs'


def run(*arguments):
    """Run the command with a ``main`` that only takes the configuration; return (exit code, message, configuration)."""
    seen = []
    result = CliRunner().invoke(training_command(seen.append, CONFIGS, 'minigrid'), arguments)
    return result.exit_code, result.stderr, seen[0] if seen else None


@pytest.mark.parametrize(
    ('arguments', 'parts'),
    [
        (['--config', 'minigrd'], ['--config minigrd', 'nearest is minigrid', 'atari26, atari8, minigrid, mixed']),
        (['--set', 'policy.bach_size=8'], ['policy.bach_size', 'no such key', 'policy.batch_size']),
        (['--set', 'polcy.batch_size=8'], ['polcy.batch_size', 'no such key', 'policy.']),
        (['--set', 'max_train_itr=8'], ['max_train_itr', 'no such key', 'max_train_iter']),
        (['--set', 'collect.steps=8'], ['collect.steps', 'collect.steps_per_environment']),
        (['--set', 'seed.value=8'], ['seed.value', 'no such key']),
        (['--set', 'policy.batch_size=large'], ['policy.batch_size', 'an integer or list', "'large'", 'str']),
        (['--set', 'policy.batch_size=[8, 8]'], ['policy.batch_size', 'list of 4']),
        (['--set', 'policy.batch_size=0'], ['policy.batch_size', 'at least 1', 'got 0']),
        (['--set', 'policy.learning_rate=fast'], ['policy.learning_rate', 'a number', "'fast'"]),
        (['--set', 'seed=1.5'], ['seed', 'an integer', '1.5']),
        (['--set', 'policy.cuda=1'], ['policy.cuda', 'true or false', '1']),
        (['--set', 'policy.model=3'], ['policy.model', 'a mapping']),
        (['--set', 'policy.device=cuda'], ['policy.device', 'cannot be set']),
        (['--set', 'policy.replay_buffer_size=32'], ['policy.replay_buffer_size', 'larger than policy.batch_size']),
        (['--set', 'policy.model.world_model_cfg.context_length=2'], ['policy.model.world_model_cfg.context_length']),
        (['--set', 'policy.monitor.monitor_norm_freq=-1'], ['policy.monitor.monitor_norm_freq', 'at least 0', '-1']),
        (['--set', 'policy.monitor.monitor_norm_freq=2.5'], ['policy.monitor.monitor_norm_freq', 'integer', '2.5']),
        (['--set', 'policy.monitor.monitor_norm_frequency=5'], ['monitor_norm_frequency', 'monitor_norm_freq']),
        (['--set', 'policy.monitor.on_finding=halt'], ['policy.monitor.on_finding', "'stop'", "'halt'"]),
        (['--set', "tasks=['MiniGrid-Emty-8x8-v0']"], ['tasks[0]', 'MiniGrid-Emty-8x8-v0', 'MiniGrid-Empty-8x8-v0']),
        (['--set', 'tasks=[]'], ['tasks', 'a list of environment names']),
        (['--set', 'task_split=[[0, 1, 2, 7]]'], ['task_split', '7 is out of range', '0 to 3']),
        (['--set', 'environment_options.colour=1'], ['environment_options', 'colour', 'MiniGrid-Empty']),
        (['--set', 'no-equals-sign'], ['no-equals-sign', 'KEY=VALUE']),
        (['--max-train-iter', '-5'], ['max_train_iter', 'at least 0', '-5']),
    ],
)
def test_bad_input_is_one_message_and_a_non_zero_exit(arguments, parts):
    code, message, config = run(*arguments)
    assert code == BAD_INPUT
    assert config is None
    assert message.startswith('error: ')
    assert message.count('\n') == 1
    for part in parts:
        assert part in message


@pytest.mark.parametrize('arguments', [['--max-train-iter', 'many'], ['--sed', '3']])
def test_invalid_options_end_with_a_non_zero_exit_code(arguments):
    code, message, _ = run(*arguments)
    assert code == BAD_INPUT
    assert arguments[0] in message


def test_settings_reach_the_configuration():
    code, _, config = run(
        '--exp-name', 'somewhere', '--max-train-iter', '7', '--seed', '3', '--resume',
        '--set', 'policy.batch_size=[1, 2, 3, 4]', '--set', 'policy.learning_rate=1e-4',
        '--set', 'policy.model.world_model_cfg.embed_dim=32', '--set', 'policy.monitor.monitor_norm_freq=50',
        '--set', 'policy.monitor.module_groups={"mine": "world_model.transformer"}', '--set', 'evaluate.episodes=2',
    )  # fmt: skip
    assert code == 0
    assert (config.exp_name, config.max_train_iter, config.seed, config.resume) == ('somewhere', 7, 3, True)
    assert config.policy.batch_size == [1, 2, 3, 4]
    assert config.policy.learning_rate == 1e-4
    assert config.policy.model.world_model_cfg.embed_dim == 32
    assert config.policy.monitor.monitor_norm_freq == 50
    assert config.policy.monitor.module_groups == {'mine': 'world_model.transformer'}
    assert config.evaluate.episodes == 2
    assert config.evaluate.frequency == 500
    assert config.policy.task_ids == [0, 1, 2, 3]


def test_every_key_that_a_complete_configuration_has_can_be_named():
    _, _, config = run()
    with pytest.raises(ValueError, match='no such key'):
        complete_config({'tasks': ['CartPole-v0']}, {'policy.model.nothing': 1}, None)
    again = complete_config(
        {'tasks': list(config.tasks)}, {'policy.num_simulations': 4, 'random_policy.seconds': 1}, [2]
    )
    assert again.policy.num_simulations == 4
    assert again.policy.task_ids == [2]


def test_on_finding_is_set_as_a_word_or_in_detail():
    _, _, config = run('--set', 'policy.monitor.on_finding=stop', '--set', 'policy.monitor.rules.weight_jump=false')
    assert config.policy.monitor.on_finding == 'stop'
    assert config.policy.monitor.rules == {'weight_jump': False}
    _, _, config = run(
        '--set', 'policy.monitor.on_finding=warn', '--set', 'policy.monitor.on_finding.error=checkpoint',
        '--set', 'policy.monitor.on_finding.non_finite=stop',
    )  # fmt: skip
    assert config.policy.monitor.on_finding == {'error': 'checkpoint', 'non_finite': 'stop'}


def test_options_of_the_environments_change_the_tasks():
    _, _, config = run('--set', "tasks=['PongNoFrameskip-v4']", '--set', 'environment_options.full_action_space=False')
    assert config.policy.tasks[0].action_space_size == 6


@pytest.mark.slow
@pytest.mark.parametrize('name', ['mixed', 'atari8', 'atari26'])
@pytest.mark.full
def test_every_configuration_is_complete(name):
    code, message, config = run('--config', name)
    assert (code, message) == (0, '')
    assert len(config.policy.tasks) == {'mixed': 4, 'atari8': 8, 'atari26': 26}[name]
    assert config.exp_name == f'runs/{name}'
    if name.startswith('atari'):
        assert config.policy.model.world_model_cfg.embed_dim == 768
        assert {tuple(task.observation_shape) for task in config.policy.tasks} == {(3, 64, 64)}
    else:
        assert len({tuple(task.observation_shape) for task in config.policy.tasks}) == 3


def test_values_are_literals_then_yaml():
    assert parse_settings(('a=1', 'b=1e-3', 'c=true', 'd=null', 'e=[x, y]', "f={'k': 1}", 'g=a=b')) == {
        'a': 1, 'b': 1e-3, 'c': True, 'd': None, 'e': ['x', 'y'], 'f': {'k': 1}, 'g': 'a=b',
    }  # fmt: skip
