"""Configuration files as LightZero's zoo has them, small: each trains CartPole for some 30 learner iterations."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]

ENTRIES = {
    'train_unizero': 'unizero',
    'train_unizero_segment': 'unizero',
    'train_muzero': 'muzero',
    'train_muzero_segment': 'muzero',
}
"""LightZero 0.2.0's entries, and the policy that each is tried with."""

HOOK = (
    "learn=dict(learner=dict(hook=dict(norm_monitor=dict(name='norm_monitor', type='norm_monitor', "
    "position='before_iter', ext_args=dict({config})))))"
)
MODULE = 'ding_normmon.integrations.ding_engine.learner_hook'

_FILE = """\
from easydict import EasyDict

collector_env_num = 2
evaluator_env_num = 1

main_config = EasyDict(dict(
    exp_name='data/run',
    env=dict(
        env_id='CartPole-v0',
        env_name='CartPole-v0',
        stop_value=200,
        continuous=False,
        manually_discretization=False,
        collector_env_num=collector_env_num,
        evaluator_env_num=evaluator_env_num,
        n_evaluator_episode=evaluator_env_num,
        manager=dict(shared_memory=False),
    ),
    policy=dict(
        model={model},
        use_wandb=False,
        model_path=None,
        num_unroll_steps=5,
        cuda=False,
        env_type='not_board_games',
        game_segment_length=20,
        update_per_collect=10,
        batch_size=8,
        optim_type='AdamW',
        piecewise_decay_lr_scheduler=False,
        learning_rate=0.001,
        num_simulations=2,
        reanalyze_ratio=0.,
        n_episode=2,
        eval_freq=1000,
        replay_buffer_size=int(1e4),
        collector_env_num=collector_env_num,
        evaluator_env_num=evaluator_env_num,
        {segment}
        {additions}
    ),
))
create_config = EasyDict(dict(
    env=dict(type='seeded_cartpole', import_names=['tests.integrations.lightzero.seeded_cartpole']),
    env_manager=dict(type='base'),
    policy=dict(type='{policy}', import_names=['lzero.policy.{policy}'{module}]),
))

if __name__ == '__main__':
    from lzero.entry import {entry}
    {before}{entry}([main_config, create_config], seed=0, max_train_iter=30)
"""

_MODELS = {
    'unizero': """dict(
            observation_shape=4, action_space_size=2, self_supervised_learning_loss=True,
            discrete_action_encoding_type='one_hot', norm_type='BN', model_type='mlp',
            world_model_cfg=dict(
                max_blocks=10, max_tokens=20, context_length=8, context_length_for_recurrent=8, device='cuda',
                action_space_size=2, num_layers=1, num_heads=2, embed_dim=16, env_num=2,
                collector_env_num=collector_env_num, evaluator_env_num=evaluator_env_num, obs_type='vector',
                norm_type='BN', rotary_emb=True, num_simulations=2, game_segment_length=20,
            ),
        )""",
    'muzero': """dict(
            observation_shape=4, action_space_size=2, model_type='mlp', lstm_hidden_size=16, latent_state_dim=16,
            self_supervised_learning_loss=True, discrete_action_encoding_type='one_hot', norm_type='BN',
        )""",
}
_SEGMENT = (
    'num_segments=2, train_start_after_envsteps=0, buffer_reanalyze_freq=0.1, reanalyze_batch_size=8, '
    'reanalyze_partition=0.75,'
)


def zoo_file(entry: str, hook: str | None = None, additions: str = '', before: str = '') -> str:
    """Return the text of a configuration file.

    Arguments:
        entry: one of ``ENTRIES``.
        hook: the monitor's configuration, where the file asks for it: the two lines of the guide.
        additions: further keys of the policy.
        before: statements before the entry is called.
    """
    policy = ENTRIES[entry]
    if hook is not None:
        additions += HOOK.format(config=hook) + ','
    return _FILE.format(
        entry=entry,
        policy=policy,
        model=_MODELS[policy],
        segment=_SEGMENT if entry.endswith('segment') else '',
        additions=additions,
        module='' if hook is None else f", '{MODULE}'",
        before=before,
    )


def run(folder: Path, text: str, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Write a configuration file into a folder and run it there, by Python or by ``python {command} FILE``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'config.py').write_text(text)
    variables: dict[str, Any] = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, *command, 'config.py'],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
