"""The rules, one class in one file each; those that name a task beyond doubt come first."""

from ding_normmon.diagnose.rule import Rule
from ding_normmon.diagnose.rules.constant_data import ConstantData
from ding_normmon.diagnose.rules.dormant_units import DormantUnits
from ding_normmon.diagnose.rules.gradient_jump import GradientJump
from ding_normmon.diagnose.rules.head_drift import HeadDrift
from ding_normmon.diagnose.rules.loss_jump import LossJump
from ding_normmon.diagnose.rules.no_gradient import NoGradient
from ding_normmon.diagnose.rules.non_finite import NonFinite
from ding_normmon.diagnose.rules.representation_collapse import RepresentationCollapse
from ding_normmon.diagnose.rules.reward_scale import RewardScale
from ding_normmon.diagnose.rules.shared_jump import ExplodingGradient, VanishingGradient
from ding_normmon.diagnose.rules.twin_tasks import TwinTasks
from ding_normmon.diagnose.rules.update_jump import UpdateJump

__all__ = ['RULES']

RULES: tuple[type[Rule], ...] = (
    NonFinite,
    NoGradient,
    TwinTasks,
    RewardScale,
    DormantUnits,
    UpdateJump,
    GradientJump,
    HeadDrift,
    LossJump,
    ConstantData,
    RepresentationCollapse,
    ExplodingGradient,
    VanishingGradient,
)
"""Every rule, in the order in which they are asked."""
