"""What is measured: one class per quantity, one file per class."""

from ding_normmon.quantities.gradient_norms import GradientNorms
from ding_normmon.quantities.own_cost import OwnCost
from ding_normmon.quantities.parameter_norms import ParameterNorms
from ding_normmon.quantities.presets import PRESETS, default_quantities, preset_quantities
from ding_normmon.quantities.quantity import Quantity, Setup
from ding_normmon.quantities.task_losses import TaskLosses
from ding_normmon.quantities.tensor_statistics import TensorStatistics

__all__ = [
    'PRESETS',
    'GradientNorms',
    'OwnCost',
    'ParameterNorms',
    'Quantity',
    'Setup',
    'TaskLosses',
    'TensorStatistics',
    'default_quantities',
    'preset_quantities',
]
