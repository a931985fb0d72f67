"""Configuration files for the multi-task entries of LightZero's git main, small; see ``checkout.py``."""

from __future__ import annotations

from tests.integrations.lightzero.zoo_files import HOOK, MODULE

_FILE = """\
from tests.integrations.lightzero.checkout import use_checkout

use_checkout()

import torch.distributed as dist
from easydict import EasyDict

from tests.integrations.lightzero import checkout_policies
from tests.integrations.lightzero.policies import SUPPORTS

checkout_policies.repair()
if {ranks} > 1:
    checkout_policies.repair_ranks()

NAMES = ['Pong-tiny', 'Boxing-tiny']
world_model = checkout_policies.world_model(
    task_num=2, action_space_size=3, env_num=2, collector_env_num=2, evaluator_env_num=1, device='cpu', max_blocks=5,
    max_tokens=10, context_length=8, use_new_cache_manager=False, {world_model}
)


def config(task_id, name):
    return EasyDict(dict(
        exp_name=f'data/{{name}}',
        env=dict(
            stop_value=int(1e6), env_id=name, collector_env_num=2, evaluator_env_num=1, n_evaluator_episode=1,
            manager=dict(shared_memory=False),
        ),
        policy=dict(
            multi_gpu={ranks} > 1, only_use_moco_stats=False, use_moco=False, total_task_num=2, task_num=2,
            task_id=task_id,
            model=dict(
                observation_shape=(3, 64, 64), action_space_size=3, norm_type='LN', num_res_blocks=1, num_channels=4,
                model_type='conv', world_model_cfg=world_model, **SUPPORTS,
            ),
            cuda=False, device='cpu', game_segment_length=10, update_per_collect=4, learning_rate=0.001,
            weight_decay=1e-2, batch_size=[4, 4], num_unroll_steps=5, num_segments=2, num_simulations=2,
            reanalyze_ratio=0.0, n_episode=2, total_batch_size=8, collector_env_num=2, evaluator_env_num=1,
            buffer_reanalyze_freq=1 / 1e8, reanalyze_batch_size=8, reanalyze_partition=0.75,
            replay_buffer_size=10000, eval_freq={eval_freq}, use_wandb=False, {hook}{policy}
        ),
    ))


create = EasyDict(dict(
    env=dict(type='tiny_image', import_names=['tests.integrations.lightzero.tiny_image_env']),
    env_manager=dict(type='base'),
    policy=dict(type='unizero_multitask', import_names=['lzero.policy.unizero_multitask'{module}]),
))

if __name__ == '__main__':
    from lzero.entry import {entry}

    dist.init_process_group('gloo')
    configs = [[task_id, [config(task_id, name), EasyDict(create)]] for task_id, name in enumerate(NAMES)]
    {entry}(configs, seed=0, max_train_iter={iterations})
    dist.destroy_process_group()
"""


def checkout_file(
    entry: str,
    iterations: int,
    world_model: str = '',
    policy: str = '',
    ranks: int = 1,
    eval_freq: int = 10000,
    hook: str | None = None,
) -> str:
    """Return the text of a file that calls one of the multi-task entries.

    Arguments:
        entry: the entry.
        iterations: of the learner.
        world_model: further keys of the world model.
        policy: further keys of the policy.
        ranks: number of ranks, each with one of the two tasks, or one with both.
        eval_freq: iterations between evaluations.
        hook: the monitor's configuration, where the file asks for it: the two lines of the guide.
    """
    return _FILE.format(
        entry=entry,
        iterations=iterations,
        world_model=world_model,
        policy=policy,
        ranks=ranks,
        eval_freq=eval_freq,
        hook='' if hook is None else HOOK.format(config=hook) + ', ',
        module='' if hook is None else f", '{MODULE}'",
    )
