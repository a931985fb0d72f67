"""Four tasks with three shapes of observations: an encoder per shape's task, heads of four different sizes."""

from easydict import EasyDict

config = EasyDict(
    tasks=[
        'CartPole-v0',
        'MiniGrid-Empty-Random-6x6-v0',
        'MiniGrid-Empty-8x8-v0',
        'MinAtar-space_invaders',
    ],
    max_train_iter=1500,
    max_minutes=4.5,
    policy={
        'cuda': True,  # where there is a GPU
        'monitor': {'monitor_norm_freq': 10},
    },
)
