"""The collector's segments hold every step once and in order, and the replay buffer and learner take them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from ding.framework.context import OnlineRLContext

from ding_normmon.unizero.environments import environment_spec, make_environment
from ding_normmon.unizero.environments.base import TaskEnvironment
from ding_normmon.unizero.middleware import (
    MultiTaskCollector,
    MultiTaskEvaluator,
    MultiTaskLearner,
    MultiTaskPusher,
    MultiTaskSampler,
    MultiTaskTrainer,
)
from ding_normmon.unizero.policy import UniZeroMultitaskPolicy
from ding_normmon.unizero.policy_config import multitask_policy_config, single_task_config
from ding_normmon.unizero.replay_buffer import TaskReplayBuffer
from ding_normmon.unizero.segment_collector import SegmentCollector
from ding_normmon.unizero.task_spec import TaskSpec

ACTIONS = 3
LENGTHS = (1, 7, 20, 33, 40, 65, 5)
"""Episode lengths below, at and above one and two segments of 20 steps."""


class ScriptedEnvironment(TaskEnvironment):
    """Observation [number, episode, time step]; reward 100 * episode + time step."""

    def __init__(self, number, shift=0):
        self.number, self.episode, self.shift = number, -1, shift
        super().__init__(f'scripted-{number}', (3,), ACTIONS)

    def _begin_episode(self, seed):
        self.episode += 1
        self.length = LENGTHS[(self.episode + self.shift) % len(LENGTHS)]
        return self._vector(0)

    def _advance(self, action):
        reward = 100.0 * self.episode + self._timestep
        return self._vector(self._timestep + 1), reward, self._timestep + 1 == self.length

    def _vector(self, timestep):
        return np.array([self.number, self.episode, timestep], dtype=np.float32)


class ScriptedPolicy:
    """The action and the searched value are functions of the observation, so that a segment can be checked alone."""

    def __init__(self):
        self.resets = []

    def _forward_collect(self, data, action_mask, temperature, to_play, epsilon, ready_env_id, timestep, task_id):
        assert len(action_mask) == len(to_play) == len(timestep) == len(ready_env_id) == len(data)
        assert data[:, 2].tolist() == timestep
        return {int(i): decide(row) for i, row in zip(ready_env_id, data.numpy(), strict=True)}

    def _reset_collect(self, env_id, current_steps, reset_init_data, task_id):
        if reset_init_data:
            self.resets.append(env_id)


def decide(vector):
    action = int(vector.sum()) % ACTIONS
    visits = [1, 1, 1]
    visits[action] = 6
    return {
        'action': action,
        'visit_count_distributions': visits,
        'searched_value': float(vector[1] * 1000 + vector[2]),
        'predicted_value': np.array([float(vector[1] * 1000)]),
    }


def scripted_config(**overrides):
    return single_task_config(multitask_policy_config([TaskSpec('scripted', (3,), ACTIONS)], [0], **overrides), 0)


@pytest.fixture
def collected():
    """All segments of three environments, from calls of unequal lengths, with their metadata and the collector."""
    policy = ScriptedPolicy()
    config = scripted_config(use_priority=True)
    collector = SegmentCollector(policy, config, 0, [ScriptedEnvironment(i, shift=i) for i in range(3)])
    results = [collector.collect(steps, 1.0) for steps in (1, 13, 200, 20, 66)]
    return results, collector, policy


def segments_of(results):
    pairs = [zip(result.segments, result.metadata, strict=True) for result in results]
    return [pair for of_result in pairs for pair in of_result]


def own_steps(segment):
    """The steps that are the segment's own, not padding: (number, episode, time step)."""
    count = len(segment.timestep_segment)  # what pads a segment brings no time steps along
    return [tuple(int(x) for x in row) for row in segment.obs_segment[:count]]


def test_every_step_is_in_exactly_one_segment(collected):
    results, collector, _ = collected
    counts = Counter(step for segment, _ in segments_of(results) for step in own_steps(segment))
    assert max(counts.values()) == 1
    pending = Counter()
    for track in collector._tracks:
        for segment in ([track.waiting[0]] if track.waiting else []) + [track.segment]:
            steps = [tuple(int(x) for x in row) for row in segment.obs_segment]
            pending.update(steps[: len(segment.timestep_segment)])
    expected = set()
    for number in range(3):
        episode, timestep = 0, 0
        for _ in range(300):
            expected.add((number, episode, timestep))
            timestep += 1
            if timestep == LENGTHS[(episode + number) % len(LENGTHS)]:
                episode, timestep = episode + 1, 0
    assert set(counts) | set(pending) == expected
    assert not set(counts) & set(pending)
    assert sum(result.steps for result in results) == 900


def test_segments_are_contiguous_and_padded_with_what_followed(collected):
    results, _, _ = collected
    for segment, _ in segments_of(results):
        number, episode, first = (int(x) for x in segment.obs_segment[0])
        length = LENGTHS[(episode + number) % len(LENGTHS)]
        own = len(segment.timestep_segment)
        assert own == min(20, length - first)
        assert segment.timestep_segment.tolist() == list(range(first, first + own))
        padded = min(10, length - first - own)
        actions = len(segment.action_segment)
        assert actions == own + padded
        assert len(segment.obs_segment) == actions + 1
        assert len(segment.child_visit_segment) == len(segment.root_value_segment) == actions
        assert len(segment.reward_segment) == own + min(9, padded)
        for offset, vector in enumerate(segment.obs_segment):
            assert vector.tolist() == [number, episode, first + offset]
        for offset in range(actions):
            decision = decide(segment.obs_segment[offset])
            assert segment.action_segment[offset] == decision['action']
            assert segment.root_value_segment[offset] == decision['searched_value']
            assert segment.child_visit_segment[offset].argmax() == decision['action']
            assert segment.child_visit_segment[offset].sum() == pytest.approx(1)
        for offset, reward in enumerate(segment.reward_segment):
            assert reward == 100 * episode + first + offset


def test_metadata_tells_ends_and_priorities(collected):
    results, _, _ = collected
    for segment, data in segments_of(results):
        number, episode, first = (int(x) for x in segment.obs_segment[0])
        remaining = LENGTHS[(episode + number) % len(LENGTHS)] - first
        assert data['unroll_plus_td_steps'] == min(10, len(segment.timestep_segment))
        # A segment is handed over at the end of the episode or when the next one is full.
        assert data['done'] == (remaining <= 40)
        np.testing.assert_allclose(data['priorities'], segment.timestep_segment + 1e-6)


def test_returns_and_lengths_are_those_of_the_episodes(collected):
    results, collector, policy = collected
    lengths = [length for result in results for length in result.lengths]
    returns = [value for result in results for value in result.returns]
    assert len(lengths) == sum(track.environment.episode for track in collector._tracks)
    expected = {
        (length, 100.0 * episode * length + length * (length - 1) / 2)
        for number in range(3)
        for episode in range(20)
        for length in [LENGTHS[(episode + number) % len(LENGTHS)]]
    }
    assert set(zip(lengths, returns, strict=True)) <= expected
    assert len([reset for reset in policy.resets if reset is not None]) == len(lengths)


def test_replay_buffer_takes_the_segments_and_forgets_whole_ones(collected):
    results, _, _ = collected
    buffer = TaskReplayBuffer(scripted_config(replay_buffer_size=200, batch_size=16))
    for result in results:
        buffer.push_game_segments((result.segments, [{**data, 'priorities': None} for data in result.metadata]))
        buffer.remove_oldest_data_to_fit()
        stored = sum(len(segment.timestep_segment) for segment in buffer.game_segment_buffer)
        assert buffer.get_num_of_transitions() == stored == len(buffer.game_pos_priorities)
        assert stored <= 200
    first, _ = buffer.game_segment_game_pos_look_up[0]
    assert first - buffer.base_idx == 0
    last, position = buffer.game_segment_game_pos_look_up[-1]
    assert last - buffer.base_idx == len(buffer.game_segment_buffer) - 1
    assert position == len(buffer.game_segment_buffer[-1].timestep_segment) - 1


def test_collector_refuses_stacked_frames_and_no_environments():
    with pytest.raises(ValueError, match='no environment'):
        SegmentCollector(ScriptedPolicy(), scripted_config(), 3, [])
    config = scripted_config()
    config.model.frame_stack_num = 4
    with pytest.raises(ValueError, match='frame_stack_num must be 1, got 4'):
        SegmentCollector(ScriptedPolicy(), config, 0, [ScriptedEnvironment(0)])


NAMES = ['MiniGrid-LavaGapS5-v0', 'CartPole-v0']


@pytest.fixture(scope='module')
def small_policy():
    torch.manual_seed(0)
    config = multitask_policy_config(
        [environment_spec(name) for name in NAMES],
        batch_size=[8, 4],
        collector_env_num=2,
        evaluator_env_num=2,
        num_simulations=3,
        update_per_collect=2,
        game_segment_length=10,
    )
    return UniZeroMultitaskPolicy(config)


def environments(number=2):
    return {task_id: [make_environment(name, i) for i in range(number)] for task_id, name in enumerate(NAMES)}


@pytest.mark.slow
def test_the_middleware_collects_samples_and_trains(small_policy):
    policy = small_policy
    buffers = {task_id: TaskReplayBuffer(policy.task_cfg(task_id)) for task_id in policy.task_ids}
    ctx = OnlineRLContext()
    collector = MultiTaskCollector(policy, environments(), 25, policy.collect_temperature)
    pusher, sampler, trainer = MultiTaskPusher(buffers), MultiTaskSampler(policy, buffers), MultiTaskTrainer(policy)
    sampler(ctx)
    assert ctx.train_data is None
    trainer(ctx)
    assert ctx.train_iter == 0
    for _ in range(3):
        collector(ctx)
        pusher(ctx)
    assert ctx.env_step == 3 * 2 * 2 * 25
    assert ctx.env_episode >= 2
    assert set(ctx.collect_summaries) == {0, 1}
    sampler(ctx)
    assert [task_id for _, _, task_id in ctx.train_data] == [0, 1]
    assert [len(current[0]) for current, _, _ in ctx.train_data] == [8, 4]
    trainer(ctx)
    trainer(ctx)
    assert ctx.train_iter == 2
    assert len(ctx.train_output) == 2
    assert all(type(value) is float for value in ctx.train_output[-1].values())
    assert {'noreduce_obs_loss_task0', 'noreduce_value_loss_task1'} <= ctx.train_output[-1].keys()
    collector.close()


@pytest.mark.full
def test_the_learner_stops_at_the_last_iteration(small_policy):
    policy = small_policy
    buffers = {task_id: TaskReplayBuffer(policy.task_cfg(task_id)) for task_id in policy.task_ids}
    ctx = OnlineRLContext()
    learner = MultiTaskLearner(policy, buffers, updates=2, max_train_iter=3)
    learner(ctx)
    assert ctx.train_iter == 0
    collector = MultiTaskCollector(policy, environments(), 50, policy.collect_temperature)
    collector(ctx)
    MultiTaskPusher(buffers)(ctx)
    iterations = []
    for _ in range(3):
        ctx.train_output = None
        learner(ctx)
        iterations.append((ctx.train_iter, len(ctx.train_output or [])))
    assert iterations == [(2, 2), (3, 1), (3, 0)]
    collector.close()


@pytest.mark.slow
@pytest.mark.full
def test_the_evaluator_is_due_every_so_often_and_at_the_end(small_policy):
    ctx = OnlineRLContext()
    evaluator = MultiTaskEvaluator(small_policy, environments(), frequency=10, episodes=2, max_train_iter=25)
    due = []
    for iteration in (0, 5, 12, 15, 22, 25, 25):
        ctx = ctx.renew()
        ctx.train_iter = iteration
        evaluator(ctx)
        if not np.isinf(ctx.eval_value):
            due.append(iteration)
            assert ctx.eval_value == pytest.approx(np.mean(list(ctx.eval_returns.values())))
            assert ctx.eval_returns[1] >= 8  # no episode of CartPole is shorter
    assert due == [12, 22, 25]
    evaluator.close()


def test_a_rank_without_tasks_does_nothing_and_does_not_fail():
    policy = UniZeroMultitaskPolicy(multitask_policy_config([environment_spec(name) for name in NAMES], []))
    ctx = OnlineRLContext()
    MultiTaskCollector(policy, {}, 10, policy.collect_temperature)(ctx)
    MultiTaskPusher({})(ctx)
    sampler = MultiTaskSampler(policy, {})
    sampler(ctx)
    assert ctx.train_data == []
    ctx.train_iter = 10
    MultiTaskEvaluator(policy, {}, 5, 2)(ctx)
    assert ctx.eval_returns == {}
    assert np.isinf(ctx.eval_value)


@pytest.mark.slow
@pytest.mark.full
def test_two_atari_games_are_collected_and_trained_on():
    """The ScaleZero setting with a small batch: real games, the large model, one learner step."""
    from entry.configs.atari8 import config as atari8

    names = ['PongNoFrameskip-v4', 'MsPacmanNoFrameskip-v4']
    assert set(names) <= set(atari8.tasks)
    overrides = {**atari8.policy, 'monitor': {}, 'collector_env_num': 1, 'evaluator_env_num': 1, 'batch_size': 2}
    overrides.update(num_simulations=2, game_segment_length=10, cuda=False)
    policy = UniZeroMultitaskPolicy(multitask_policy_config([environment_spec(name) for name in names], **overrides))
    buffers = {task_id: TaskReplayBuffer(policy.task_cfg(task_id)) for task_id in policy.task_ids}
    ctx = OnlineRLContext()
    games = {task_id: [make_environment(name, task_id)] for task_id, name in enumerate(names)}
    collector = MultiTaskCollector(policy, games, 40, policy.collect_temperature)
    collector(ctx)
    assert [len(segments) for segments, _ in ctx.trajectories.values()] == [3, 3]
    MultiTaskPusher(buffers)(ctx)
    MultiTaskLearner(policy, buffers, updates=1)(ctx)
    assert ctx.train_iter == 1
    assert np.isfinite(list(ctx.train_output[-1].values())).all()
    assert ctx.train_output[-1]['skipped_steps'] == 0
    collector.close()
