"""The rules, one idea per file."""

from ding_normmon.diagnose.invariants import EXACT, EXPECTED
from ding_normmon.diagnose.rule import Rule
from ding_normmon.diagnose.rules.always_clipped import AlwaysClipped
from ding_normmon.diagnose.rules.clipped_to_zero import ClippedToZero
from ding_normmon.diagnose.rules.conflicting_pair import ConflictingPair
from ding_normmon.diagnose.rules.gradient_noise import GradientNoise
from ding_normmon.diagnose.rules.head_gap import HeadGradientGap, HeadNormGap
from ding_normmon.diagnose.rules.learning_rate import LearningRate
from ding_normmon.diagnose.rules.losing_points import LosingPoints
from ding_normmon.diagnose.rules.loss_weights import LossWeights
from ding_normmon.diagnose.rules.missing_data import MissingData
from ding_normmon.diagnose.rules.no_gradient import NoGradient
from ding_normmon.diagnose.rules.non_finite import NonFinite
from ding_normmon.diagnose.rules.spike import Spike
from ding_normmon.diagnose.rules.stages import DEPARTED
from ding_normmon.diagnose.rules.task_share import TaskDominates, TaskStarves
from ding_normmon.diagnose.rules.twin_tasks import TwinTasks
from ding_normmon.diagnose.rules.update_range import UpdateRange

__all__ = ['RULES']

RULES: tuple[type[Rule], ...] = (
    *EXACT,
    *EXPECTED,
    NonFinite,
    Spike,
    ClippedToZero,
    NoGradient,
    TwinTasks,
    MissingData,
    LearningRate,
    LossWeights,
    *DEPARTED,
    TaskDominates,
    TaskStarves,
    ConflictingPair,
    GradientNoise,
    UpdateRange,
    HeadGradientGap,
    HeadNormGap,
    AlwaysClipped,
    LosingPoints,
)
"""Every rule, in the order in which they run; those that name a task with certainty come first."""
