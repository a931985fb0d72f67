"""What is measured: one class per quantity, one file per class."""

from ding_normmon.quantities.clipping import Clipping
from ding_normmon.quantities.dormant_units import DormantUnits
from ding_normmon.quantities.gradient_conflict import GradientConflict
from ding_normmon.quantities.gradient_norms import GradientNorms
from ding_normmon.quantities.loss_contributions import LossContributions
from ding_normmon.quantities.own_cost import OwnCost
from ding_normmon.quantities.parameter_norms import ParameterNorms
from ding_normmon.quantities.presets import PRESETS, default_quantities, preset_quantities
from ding_normmon.quantities.quantity import Quantity, Setup
from ding_normmon.quantities.rank_agreement import RankAgreement
from ding_normmon.quantities.representation_rank import RepresentationRank
from ding_normmon.quantities.task_losses import TaskLosses
from ding_normmon.quantities.tensor_statistics import TensorStatistics
from ding_normmon.quantities.updates import Updates
from ding_normmon.quantities.weight_magnitude import WeightMagnitude

__all__ = [
    'PRESETS',
    'Clipping',
    'DormantUnits',
    'GradientConflict',
    'GradientNorms',
    'LossContributions',
    'OwnCost',
    'ParameterNorms',
    'Quantity',
    'RankAgreement',
    'RepresentationRank',
    'Setup',
    'TaskLosses',
    'TensorStatistics',
    'Updates',
    'WeightMagnitude',
    'default_quantities',
    'preset_quantities',
]
