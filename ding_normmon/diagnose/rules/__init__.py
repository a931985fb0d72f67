"""The rules, one class in one file each; those that name a task beyond doubt come first."""

from ding_normmon.diagnose.rule import Rule
from ding_normmon.diagnose.rules.gradient_jump import GradientJump
from ding_normmon.diagnose.rules.loss_jump import LossJump
from ding_normmon.diagnose.rules.no_gradient import NoGradient
from ding_normmon.diagnose.rules.non_finite import NonFinite
from ding_normmon.diagnose.rules.twin_tasks import TwinTasks

__all__ = ['RULES']

RULES: tuple[type[Rule], ...] = (NonFinite, NoGradient, TwinTasks, GradientJump, LossJump)
"""Every rule, in the order in which they are asked."""
