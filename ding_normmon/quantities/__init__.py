"""What is measured: one class per quantity, one file per class."""

from ding_normmon.quantities.clipping import Clipping
from ding_normmon.quantities.gradient_norms import GradientNorms
from ding_normmon.quantities.own_cost import OwnCost
from ding_normmon.quantities.parameter_norms import ParameterNorms
from ding_normmon.quantities.quantity import Quantity, Setup
from ding_normmon.quantities.task_losses import TaskLosses
from ding_normmon.quantities.tensor_statistics import TensorStatistics

__all__ = [
    'Clipping',
    'GradientNorms',
    'OwnCost',
    'ParameterNorms',
    'Quantity',
    'Setup',
    'TaskLosses',
    'TensorStatistics',
    'default_quantities',
]


def default_quantities() -> list[Quantity]:
    """Return the quantities that every monitor measures unless told otherwise."""
    return [ParameterNorms(), GradientNorms(), TensorStatistics(), TaskLosses(), Clipping(), OwnCost()]
