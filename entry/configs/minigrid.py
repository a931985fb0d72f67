"""Four MiniGrid tasks of one observation shape and different difficulty, small enough for two CPU cores.

About five minutes on two ranks. Two of the tasks are learnt in that time, one half, one hardly: the imbalance that a
monitor is there to show.
"""

from easydict import EasyDict

config = EasyDict(
    tasks=[
        'MiniGrid-Empty-Random-6x6-v0',
        'MiniGrid-Empty-8x8-v0',
        'MiniGrid-LavaGapS5-v0',
        'MiniGrid-FourRooms-v0',
    ],
    max_train_iter=1500,
    max_minutes=4.5,
    policy={
        'cuda': True,  # where there is a GPU
        'monitor': {'monitor_norm_freq': 10, 'preset': 'multitask'},
    },
)
