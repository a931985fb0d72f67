"""Eight Atari games in the ScaleZero setting: one large shared encoder and transformer, one set of heads per game.

For GPUs: ``torchrun --nproc_per_node=4 entry/train_unizero_multitask.py --config atari8``. A game's replay buffer
takes 49 kB per step, 5 GB when it is full.
"""

from easydict import EasyDict

config = EasyDict(
    tasks=[
        'PongNoFrameskip-v4',
        'MsPacmanNoFrameskip-v4',
        'SeaquestNoFrameskip-v4',
        'BoxingNoFrameskip-v4',
        'AlienNoFrameskip-v4',
        'ChopperCommandNoFrameskip-v4',
        'HeroNoFrameskip-v4',
        'RoadRunnerNoFrameskip-v4',
    ],
    max_train_iter=400_000,
    evaluate={'frequency': 10_000, 'episodes': 3},
    checkpoint={'frequency': 5_000},
    random_policy={'episodes': 3, 'seconds': 20.0},
    log={'train_show_freq': 100},
    policy={
        'cuda': True,
        'monitor': {'monitor_norm_freq': 5000},
        'collector_env_num': 8,
        'evaluator_env_num': 3,
        'num_simulations': 50,
        'replay_buffer_size': 100_000,
        'batch_size': 128,
        'update_per_collect': 80,
        'num_unroll_steps': 10,
        'discount_factor': 0.997,
        'learning_rate': 1e-4,
        'temperature': {'start': 1.0, 'end': 0.25, 'decay_iterations': 200_000},
        'model': {
            'num_res_blocks': 2,
            'support_scale': 50,
            'world_model_cfg': {
                'embed_dim': 768,
                'num_layers': 2,
                'num_heads': 8,
                'context_length': 8,
            },
        },
    },
)
