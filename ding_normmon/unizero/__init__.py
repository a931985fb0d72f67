# ruff: noqa: E402
"""Multi-task UniZero on the published LightZero package. Importing this package imports LightZero."""

from ding_normmon.unizero.quiet import import_quietly

import_quietly(
    'gym', 'gymnasium', 'ding.framework.middleware', 'lzero.mcts', 'lzero.policy.unizero', 'lzero.model.unizero_model'
)

from ding_normmon.unizero.model import BoundModel, UniZeroMultitaskModel
from ding_normmon.unizero.policy import UniZeroMultitaskPolicy
from ding_normmon.unizero.policy_config import multitask_policy_config
from ding_normmon.unizero.task_spec import TaskSpec
from ding_normmon.unizero.world_model import MultitaskWorldModel

__all__ = [
    'BoundModel',
    'MultitaskWorldModel',
    'TaskSpec',
    'UniZeroMultitaskModel',
    'UniZeroMultitaskPolicy',
    'multitask_policy_config',
]
