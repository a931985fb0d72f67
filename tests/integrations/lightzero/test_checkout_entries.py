"""The multi-task entries of LightZero's git main, on one rank and on two; see ``test_checkout.py``.

The checkout's search trees have to be compiled: ``python setup.py build_ext --inplace``.
"""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ding_normmon.runs import read_run
from tests.integrations.lightzero.checkout_files import checkout_file
from tests.integrations.lightzero.zoo_files import run

SOURCE = os.environ.get('LIGHTZERO_SRC', '')
BY_RUN = ('-m', 'ding_normmon', 'run', '--monitor', 'monitor_norm_freq=3')

pytestmark = [
    pytest.mark.slow,
    pytest.mark.full,
    pytest.mark.skipif(not SOURCE, reason='LIGHTZERO_SRC names no checkout of LightZero'),
    pytest.mark.skipif(
        bool(SOURCE) and not list(Path(SOURCE).glob('lzero/mcts/ctree/ctree_muzero/*.so')),
        reason='the search trees of LIGHTZERO_SRC are not compiled',
    ),
]


def run_on_one_rank(folder: Path, text: str, *command: str) -> subprocess.CompletedProcess[str]:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    rank = {'RANK': '0', 'WORLD_SIZE': '1', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port)}
    done = run(folder, text, *command, LIGHTZERO_SRC=str(Path(SOURCE).resolve()), **rank)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob('data/Pong-tiny/ckpt/*'))


def points(folder: Path, name: str) -> list[int]:
    [events] = (folder / 'data' / 'Pong-tiny' / 'log').rglob('*tfevents*')
    accumulator = EventAccumulator(str(events), size_guidance={'scalars': 0})
    accumulator.Reload()
    return [point.step for point in accumulator.Scalars(name)]


@pytest.mark.parametrize('in_tree', [0, 3])
def test_the_multi_task_entry(tmp_path: Path, in_tree: int) -> None:
    text = checkout_file('train_unizero_multitask_segment_ddp', 12, policy=f'monitor_norm_freq={in_tree},')
    done = run_on_one_rank(tmp_path / 'watched', text, *BY_RUN)
    [line] = [line for line in done.stderr.splitlines() if line.startswith('normmon run:')]
    assert 'tasks: 0 Pong-tiny, 1 Boxing-tiny' in line
    assert 'head_value_task{i}' in line
    recorded = read_run(tmp_path / 'watched' / 'data' / 'Pong-tiny')
    assert recorded.tasks == {0: 'Pong-tiny', 1: 'Boxing-tiny'}
    for name in ('grad/encoder/_total_norm', 'logits/value_task1/mean', 'noreduce_value_loss_task0'):
        assert recorded.series[name].iterations.tolist() == [0, 3, 6, 9], name
        assert points(tmp_path / 'watched', name) == [0, 3, 6, 9], name
    assert not [name for name in recorded.series if name.startswith('monitor/lost')]
    run_on_one_rank(tmp_path / 'plain', text)
    assert checkpoints(tmp_path / 'watched') == checkpoints(tmp_path / 'plain')
    assert 'iteration_12.pth.tar' in checkpoints(tmp_path / 'plain')


TWO_RANKS = ('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2')


@pytest.mark.distributed
@pytest.mark.parametrize('way', ['normmon run', 'two lines'])
def test_the_multi_task_entry_on_two_ranks(tmp_path: Path, way: str) -> None:
    """Each rank has one task; LightZero clips on each rank before it averages."""
    hook = 'monitor_norm_freq=3' if way == 'two lines' else None
    text = checkout_file('train_unizero_multitask_segment_ddp', 12, policy='monitor_norm_freq=0,', ranks=2, hook=hook)
    by_run = () if hook else ('-m', 'ding_normmon', 'run', '--set', 'monitor_norm_freq=3')
    done = run(tmp_path, text, *TWO_RANKS, *by_run, LIGHTZERO_SRC=str(Path(SOURCE).resolve()))
    assert done.returncode == 0, done.stderr[-3000:]
    assert checkpoints(tmp_path) == ['iteration_0.pth.tar', 'iteration_12.pth.tar']
    recorded = read_run(tmp_path / 'data' / 'Pong-tiny')
    assert recorded.tasks == {0: 'Pong-tiny', 1: 'Boxing-tiny'}
    names = ('norm/encoder/_total_norm', 'grad_local/encoder/mean', 'grad_synced/encoder/_total_norm')
    for name in (*names, 'grad/head_value_task0/_total_norm', 'logits/value_task1/mean', 'noreduce_obs_loss_task1'):
        assert recorded.series[name].iterations.tolist() == [0, 3, 6, 9], name
    assert 'grad/encoder/_total_norm' not in recorded.series
    assert set(recorded.series['monitor/missing_ranks'].values.tolist()) == {0.0}
    assert not [name for name in recorded.series if name.startswith('monitor/lost')]


def test_the_two_lines_on_one_rank(tmp_path: Path) -> None:
    hook = 'monitor_norm_freq=3'
    text = checkout_file('train_unizero_multitask_segment_ddp', 8, policy='monitor_norm_freq=0,', hook=hook)
    run_on_one_rank(tmp_path, text)
    recorded = read_run(tmp_path / 'data' / 'Pong-tiny')
    assert recorded.tasks == {0: 'Pong-tiny', 1: 'Boxing-tiny'}
    assert recorded.series['grad/encoder/_total_norm'].iterations.tolist() == [0, 3, 6]


def test_the_balance_entry_through_two_stages(tmp_path: Path) -> None:
    """LoRA is added, the backbone frozen, and the task that is solved leaves the batches."""
    world_model = (
        'curriculum_stage_num=2, min_stage0_iters=8, max_stage_iters=8, apply_curriculum_to_encoder=False, '
        "lora_target_modules=['attn', 'feed_forward'], lora_r=2, lora_alpha=4, lora_dropout=0.0, lora_scale_init=1, "
        'moe_use_lora=True, '
    )
    policy = (
        'monitor_norm_freq=0, task_complexity_weight=True, target_return=-1 if task_id == 0 else 1000, '
        # This entry does not tell the policy its iteration, which these two need.
        'use_adaptive_entropy_weight=False, use_encoder_clip_annealing=False, policy_ls_eps_start=0, '
    )
    text = checkout_file('train_unizero_multitask_balance_segment_ddp', 24, world_model, policy, eval_freq=12)
    run_on_one_rank(tmp_path, text, *BY_RUN)
    recorded = read_run(tmp_path / 'data' / 'Pong-tiny')
    due = list(range(0, 24, 3))
    assert recorded.series['norm/transformer/_total_norm'].iterations.tolist() == due
    assert recorded.series['logits/value_task1/mean'].iterations.tolist() == due
    solved_at = recorded.series['logits/value_task0/mean'].iterations.tolist()[-1]
    assert solved_at < due[-1]
    state: dict[str, Any] = torch.load(
        tmp_path / 'data' / 'Pong-tiny' / 'ckpt' / 'iteration_24.pth.tar', weights_only=False
    )
    assert any('lora' in name for name in state['model'])
    assert not [name for name in recorded.series if name.startswith('monitor/lost/metric')]
