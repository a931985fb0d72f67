"""Every family of environments has the same interface, and a name that does not exist gets a useful answer."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from ding_normmon.unizero.environments import environment_spec, make_environment, valid_environment_names
from ding_normmon.unizero.environments.minigrid import CHANNELS

SMALL = ['MiniGrid-Empty-Random-6x6-v0', 'MiniGrid-LavaGapS5-v0', 'MinAtar-space_invaders', 'CartPole-v0']
ATARI = ['PongNoFrameskip-v4', 'UpNDownNoFrameskip-v4']
MINIGRID_TASKS = [
    'MiniGrid-Empty-Random-6x6-v0',
    'MiniGrid-Empty-8x8-v0',
    'MiniGrid-LavaGapS5-v0',
    'MiniGrid-FourRooms-v0',
]


# MiniGrid's own numbers for the kinds of objects.
MINIGRID_NUMBERS = {'unseen': 0, 'wall': 2, 'door': 4, 'key': 5, 'ball': 6, 'box': 7, 'goal': 8, 'lava': 9}


def play(name, seed, steps, **options):
    """Return the observations, rewards and ends of ``steps`` random steps."""
    environment = make_environment(name, seed, **options)
    generator = np.random.default_rng(0)
    observations, rewards, returns = [environment.reset()], [], []
    for _ in range(steps):
        result = environment.step(int(generator.integers(environment.action_space_size)))
        observations.append(result.obs)
        rewards.append(float(result.reward))
        if result.done:
            returns.append((len(rewards), result.info['eval_episode_return']))
            observations.append(environment.reset())
    environment.close()
    return observations, rewards, returns


@pytest.mark.parametrize('name', SMALL + ATARI)
def test_observation_has_the_shape_that_the_spec_promises(name):
    spec = environment_spec(name)
    observations, rewards, _ = play(name, 0, 30)
    for observation in observations:
        assert observation['observation'].shape == spec.observation_shape
        assert observation['observation'].dtype == np.float32
        assert observation['action_mask'].tolist() == [1] * spec.action_space_size
        assert observation['to_play'] == -1
    assert observations[0]['timestep'] == 0
    assert observations[1]['timestep'] == 1
    assert len(rewards) == 30


@pytest.mark.parametrize('name', SMALL)
def test_return_is_the_sum_of_the_rewards_and_time_steps_begin_anew(name):
    observations, rewards, returns = play(name, 1, 400)
    assert returns
    start = 0
    for end, value in returns:
        assert value == pytest.approx(sum(rewards[start:end]), abs=1e-5)
        start = end
    timesteps = [observation['timestep'] for observation in observations]
    assert timesteps.count(0) == len(returns) + 1


@pytest.mark.parametrize('name', [*SMALL, 'PongNoFrameskip-v4'])
def test_a_seed_determines_all_episodes(name):
    same = [play(name, 3, 60) for _ in range(2)]
    other = play(name, 4, 60)
    for left, right in zip(same[0][0], same[1][0], strict=True):
        np.testing.assert_array_equal(left['observation'], right['observation'])
    assert same[0][1:] == same[1][1:]
    assert any(
        not np.array_equal(left['observation'], right['observation'])
        for left, right in zip(same[0][0], other[0], strict=False)
    )


def test_the_four_minigrid_tasks_share_one_shape_and_one_number_of_actions():
    specs = [environment_spec(name) for name in MINIGRID_TASKS]
    assert {(spec.observation_shape, spec.action_space_size) for spec in specs} == {((8, 7, 7), 3)}
    assert environment_spec('MiniGrid-DoorKey-5x5-v0').action_space_size == 7


def test_minigrid_channels_are_the_kinds_of_objects():
    environment = make_environment('MiniGrid-DoorKey-6x6-v0', 0)
    for _ in range(20):
        observation = environment.reset()['observation']
        raw = environment._environment.unwrapped.gen_obs()['image']
        for channel, kind in enumerate(CHANNELS):
            np.testing.assert_array_equal(observation[channel] > 0, MINIGRID_NUMBERS[kind] == raw[..., 0].T)
        assert set(np.unique(observation[CHANNELS.index('door')])) <= {0.0, np.float32(1.0)}  # doors begin locked


def test_atari_clips_what_the_learner_sees_and_not_what_is_reported():
    clipped = play('MsPacmanNoFrameskip-v4', 0, 700, maximum_steps=300)
    raw = play('MsPacmanNoFrameskip-v4', 0, 700, maximum_steps=300, clip_reward=False)
    assert set(clipped[1]) <= {-1.0, 0.0, 1.0}
    assert max(raw[1]) >= 10
    assert clipped[2] == raw[2]
    assert clipped[2][0][0] <= 300
    assert raw[2][0][1] == sum(raw[1][: raw[2][0][0]])


def test_atari_has_a_full_and_a_minimal_action_set():
    assert make_environment('PongNoFrameskip-v4').action_space_size == 18
    assert make_environment('PongNoFrameskip-v4', full_action_space=False).action_space_size == 6


@pytest.mark.parametrize(
    ('wrong', 'nearest'),
    [
        ('MiniGrid-Emty-8x8-v0', 'MiniGrid-Empty-8x8-v0'),
        ('minigrid-fourrooms-v0', 'MiniGrid-FourRooms-v0'),
        ('MinAtar-space_invader', 'MinAtar-space_invaders'),
        ('Cartpole-v0', 'CartPole-v0'),
        ('PonNoFrameskip-v4', 'PongNoFrameskip-v4'),
    ],
)
def test_a_name_that_does_not_exist_is_answered_with_the_nearest(wrong, nearest):
    with pytest.raises(ValueError, match=f"'{wrong}' does not exist; the nearest valid name is '{nearest}'"):
        make_environment(wrong)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'minatar', None)
    with pytest.raises(ModuleNotFoundError, match="needs the package 'MinAtar', which is not installed: pip install"):
        make_environment('MinAtar-breakout')


def test_an_impossible_action_is_refused():
    environment = make_environment('CartPole-v0')
    environment.reset()
    with pytest.raises(ValueError, match=r'action 2 is not in \[0, 2\)'):
        environment.step(2)


def test_valid_names_cover_all_families():
    names = valid_environment_names()
    assert {*SMALL, *ATARI, *MINIGRID_TASKS} <= set(names)
    assert len(names) == len(set(names))
