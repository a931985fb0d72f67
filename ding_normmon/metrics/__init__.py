"""What is measured: one class per metric, one file per class."""

from ding_normmon.metrics.base import (
    Chart,
    Figure,
    LearnerStep,
    Matrix,
    Metric,
    RowBuffer,
    RowKey,
    RowTable,
    Setup,
    Vector,
)
from ding_normmon.metrics.clipping import Clipping
from ding_normmon.metrics.dormant_units import DormantUnits
from ding_normmon.metrics.gradient_conflict import GradientConflict
from ding_normmon.metrics.gradient_norms import GradientNorms
from ding_normmon.metrics.learner_steps import LearnerSteps
from ding_normmon.metrics.loss_contributions import LossContributions
from ding_normmon.metrics.own_cost import OwnCost
from ding_normmon.metrics.parameter_norms import ParameterNorms
from ding_normmon.metrics.presets import DECLARED, PRESETS, default_metrics, preset_metrics
from ding_normmon.metrics.rank_agreement import RankAgreement
from ding_normmon.metrics.representation_rank import RepresentationRank
from ding_normmon.metrics.target_network import TargetDistance
from ding_normmon.metrics.task_losses import TaskLosses
from ding_normmon.metrics.tensor_statistics import TensorStatistics
from ding_normmon.metrics.updates import Updates
from ding_normmon.metrics.weight_magnitude import WeightMagnitude

__all__ = [
    'DECLARED',
    'PRESETS',
    'Chart',
    'Clipping',
    'DormantUnits',
    'Figure',
    'GradientConflict',
    'GradientNorms',
    'LearnerStep',
    'LearnerSteps',
    'LossContributions',
    'Matrix',
    'Metric',
    'OwnCost',
    'ParameterNorms',
    'RankAgreement',
    'RepresentationRank',
    'RowBuffer',
    'RowKey',
    'RowTable',
    'Setup',
    'TargetDistance',
    'TaskLosses',
    'TensorStatistics',
    'Updates',
    'Vector',
    'WeightMagnitude',
    'default_metrics',
    'preset_metrics',
]
