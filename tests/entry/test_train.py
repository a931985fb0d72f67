"""The training script itself, started as a user starts it: one process, several ranks, resumed, interrupted."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ding_normmon.runs import read_run
from ding_normmon.unizero.checkpoint import checkpoint_path
from ding_normmon.unizero.command_line import BAD_INPUT
from ding_normmon.unizero.summary import event_files
from tests.entry.launch import command, environment, interrupt_when, kill_when, train

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

TASKS = [
    'MiniGrid-Empty-Random-6x6-v0',
    'MiniGrid-Empty-8x8-v0',
    'MiniGrid-LavaGapS5-v0',
    'MiniGrid-FourRooms-v0',
]


def scalars(folder):
    """Return {tag: [(step, value), ...]} of all event files in a folder."""
    accumulator = EventAccumulator(str(folder), size_guidance={'scalars': 0})
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()['scalars']
    }


def load(folder):
    return torch.load(checkpoint_path(folder), weights_only=False)


def test_short_run_writes_one_event_file_with_the_tasks_of_both_ranks(short_run):
    assert len(event_files(short_run)) == 1
    curves = scalars(short_run)
    assert [step for step, _ in curves['norm/encoder/_total_norm']] == [0, 5, 10, 15]
    for task_id, name in enumerate(TASKS):
        assert [step for step, _ in curves[f'norm/head_value_task{task_id}/_total_norm']] == [0, 5, 10, 15]
        assert curves[f'eval/{name}/return'][-1][0] == 20
    for task_id in (0, 1):  # the training metrics of rank 0's own tasks, through DI-engine's logger
        assert f'basic/train_noreduce_obs_loss_task{task_id}' in curves
    assert any(tag.startswith('collect/') for tag in curves)


def test_short_run_shows_its_progress_and_where_to_look(short_run_output):
    folder, output = short_run_output
    iterations = [int(number) for number in re.findall(r'^iteration (\d+)/20 ', output, re.MULTILINE)]
    assert iterations[0] == 0
    assert iterations[-1] == 20
    assert 'steps/s' in output
    for name in TASKS:
        assert name in output
    assert f'tensorboard --logdir {folder}' in output.replace('\n', '')
    assert event_files(folder)[0].name in output
    assert 'Traceback' not in output


def test_short_run_ends_with_equal_shared_parameters_and_a_whole_checkpoint(short_run):
    state = load(short_run)
    assert state['context']['train_iter'] == 20
    assert state['task_names'] == TASKS
    assert len(state['random_states']) == 2
    assert len(state['shared_digests']) == 2
    assert len(set(state['shared_digests'])) == 1
    assert all(figures['random'] is not None for figures in state['returns'].values())
    assert not list(checkpoint_path(short_run).parent.glob('*.unfinished'))
    # Heads that the other rank trains have come along: none is as it was initialised, all have been stepped.
    optimizer = state['policy']['optimizer_world_model']
    numbers = [number for group in optimizer['param_groups'] for number in group['params']]
    assert all(optimizer['state'][number]['step'] == 20 for number in numbers)


@pytest.mark.full
def test_resume_continues_iterations_curves_and_optimizer(short_run, tmp_path):
    folder = tmp_path / 'resumed'
    shutil.copytree(short_run, folder)
    output = train(2, folder, '--max-train-iter', '30', '--resume')
    assert 'iteration 20/30' in output
    assert load(folder)['context']['train_iter'] == 30
    assert load(folder)['context']['env_step'] > load(short_run)['context']['env_step']
    assert len(event_files(folder)) == 2
    curves = scalars(folder)
    assert [step for step, _ in curves['norm/encoder/_total_norm']] == [0, 5, 10, 15, 20, 25]
    assert [step for step, _ in curves[f'eval/{TASKS[0]}/return']] == [20, 30]


@pytest.mark.full
def test_a_killed_run_that_is_resumed_has_each_monitored_iteration_once(tmp_path):
    folder = tmp_path / 'killed'
    process = subprocess.Popen(
        command(1, folder, '--max-train-iter', '100000', checkpoint__frequency=10),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    # Beyond the second checkpoint by a loop of ten updates, so that measured iterations are trained again.
    kill_when(process, 'iteration 30/100000')
    done = load(folder)['context']['train_iter']
    assert done >= 10
    train(1, folder, '--max-train-iter', str(done + 20), '--resume')
    curves = scalars(folder)
    for tag in ('norm/encoder/_total_norm', 'grad/head_value_task3/_total_norm'):
        steps = [step for step, _ in curves[tag]]
        assert steps == sorted(set(steps))
        # The last before the kill may not have been written yet.
        assert set(range(0, done + 20, 5)) - set(steps) <= {done - 10, done - 5}


@pytest.mark.full
def test_resume_without_a_checkpoint_is_one_message(tmp_path):
    result = subprocess.run(
        command(1, tmp_path / 'nothing', '--resume'),
        env=environment(), capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert result.returncode == BAD_INPUT
    assert result.stderr.count('error: --resume: there is no checkpoint') == 1
    assert 'Traceback' not in result.stderr


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize(('before', 'after'), [(2, 1), (1, 2)])
def test_resume_with_another_number_of_ranks(tmp_path, before, after):
    """Every iteration and every task once, in history and event file alike."""
    folder = tmp_path / 'run'
    small = {'tasks': TASKS[:2], 'random_policy__episodes': 0, 'evaluate__frequency': 0, 'timeout': 400}
    train(before, folder, '--max-train-iter', '10', **small)
    train(after, folder, '--max-train-iter', '20', '--resume', **small)
    curves, history = scalars(folder), read_run(folder / 'history.arrows')
    for name in ('norm/encoder/_total_norm', 'grad/encoder/_total_norm', 'grad/head_value_task1/_total_norm'):
        assert [step for step, _ in curves[name]] == [0, 5, 10, 15], name
        assert history.series[name].iterations.tolist() == [0, 5, 10, 15], name
    assert len(history.tasks) == 2
    assert set(history.series['monitor/missing_ranks'].values.tolist()) == {0.0}


@pytest.mark.parametrize('number', [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.full)])
@pytest.mark.full
def test_a_signal_ends_all_ranks_with_a_checkpoint(tmp_path, number):
    folder = tmp_path / 'interrupted'
    process = subprocess.Popen(
        command(2, folder, '--max-train-iter', '100000'),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    output = interrupt_when(process, 'iteration 10/100000', by=number)
    assert process.returncode != 0
    assert 'stopped by a signal' in output
    # Nothing is missing up to where it was stopped, in either file.
    last = load(folder)['context']['train_iter']
    due = list(range(0, last, 5))
    assert [step for step, _ in scalars(folder)['norm/encoder/_total_norm']] == due
    assert read_run(folder / 'history.arrows').series['norm/encoder/_total_norm'].iterations.tolist() == due
    state = load(folder)
    assert state['context']['train_iter'] >= 10
    assert len(state['shared_digests']) == 2
    assert len(set(state['shared_digests'])) == 1


@pytest.mark.full
def test_one_process_trains_tasks_of_different_shapes(tmp_path):
    folder = tmp_path / 'mixed'
    output = train(1, folder, '--max-train-iter', '10', config='mixed')
    curves = scalars(folder)
    for task_id in range(4):
        assert [step for step, _ in curves[f'grad/head_policy_task{task_id}/_total_norm']] == [0, 5]
        assert f'basic/train_noreduce_value_loss_task{task_id}' in curves
    assert 'finished after 10 iterations' in output
    # The same folder again: the earlier run is moved aside, not mixed with.
    train(1, folder, '--max-train-iter', '0', config='mixed', evaluate__episodes=1)
    assert load(tmp_path / 'mixed.1')['context']['train_iter'] == 10
    assert load(folder)['context']['train_iter'] == 0


@pytest.mark.full
def test_more_ranks_than_tasks(tmp_path):
    folder = tmp_path / 'three'
    train(3, folder, '--max-train-iter', '10', tasks=TASKS[:2])
    state = load(folder)
    assert state['context']['train_iter'] == 10
    assert len(set(state['shared_digests'])) == 1
    curves = scalars(folder)
    assert [step for step, _ in curves['norm/head_value_task1/_total_norm']] == [0, 5]


@pytest.mark.full
def test_ranks_that_disagree_all_end_and_name_the_key(tmp_path):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            command(1, tmp_path / 'never', policy__discount_factor=0.9 + 0.01 * rank),
            env=environment(RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, message = process.communicate(timeout=90)
        assert process.returncode == BAD_INPUT
        assert 'ranks disagree on the configuration' in message
        assert 'policy.discount_factor is 0.9 on rank 0 and 0.91 on rank 1' in message
    assert not (tmp_path / 'never').exists()


@pytest.mark.full
def test_a_group_that_names_no_module_ends_all_ranks(tmp_path):
    result = subprocess.run(
        command(2, tmp_path / 'never', policy__monitor__module_groups={'mine': 'world_model.transfromer'}),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert result.returncode != 0
    assert result.stderr.count('error: ') == 1
    assert 'transfromer' in result.stderr
    assert 'transformer' in result.stderr

