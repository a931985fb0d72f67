"""Multi-task UniZero on the published LightZero package. Importing this package imports LightZero."""

from ding_normmon.unizero.lightzero_classes import UniZeroPolicy  # noqa: F401  first: it restores the root log level
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
