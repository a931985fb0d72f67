"""Rules about what must hold in every step, or has held since the run began: one record is enough to see it broken."""

from ding_normmon.diagnose.invariants.gradient_leftover import GradientLeftover
from ding_normmon.diagnose.invariants.input_range import InputRange
from ding_normmon.diagnose.invariants.invariant import ExpectedInvariant, Invariant
from ding_normmon.diagnose.invariants.keeps_value import InputChanges, ModeChanges, OptimizerStepsChange
from ding_normmon.diagnose.invariants.optimizer_holds import OrphanedParameter, UnheldParameter
from ding_normmon.diagnose.invariants.optimizer_moves import FrozenParameterMoves, ParameterStandsStill
from ding_normmon.diagnose.invariants.outside_support import OutsideSupport
from ding_normmon.diagnose.invariants.replicas_differ import ReplicasDiffer
from ding_normmon.diagnose.invariants.same_batch import BatchRepeats, RanksShareBatch, TasksShareData
from ding_normmon.diagnose.invariants.schedule import RateOffSchedule, SchedulerStepsChange
from ding_normmon.diagnose.invariants.target_network import TargetNetwork
from ding_normmon.diagnose.rule import Rule

__all__ = ['EXACT', 'EXPECTED', 'ExpectedInvariant', 'Invariant']

EXACT: tuple[type[Rule], ...] = (ReplicasDiffer, UnheldParameter, OrphanedParameter, OutsideSupport)
"""Without threshold and without warm-up."""

EXPECTED: tuple[type[Rule], ...] = (
    ParameterStandsStill,
    FrozenParameterMoves,
    GradientLeftover,
    RanksShareBatch,
    BatchRepeats,
    TasksShareData,
    ModeChanges,
    InputRange,
    InputChanges,
    OptimizerStepsChange,
    RateOffSchedule,
    SchedulerStepsChange,
    TargetNetwork,
)
"""Each with a precondition that it states and learns from the run's own beginning."""
