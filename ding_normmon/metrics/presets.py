"""Which metrics are measured, by the name of a preset."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ding_normmon.core.common_figures import COMMON_FIGURES
from ding_normmon.core.figures import Figures
from ding_normmon.metrics.backward_calls import BackwardCalls
from ding_normmon.metrics.base import Metric
from ding_normmon.metrics.clipping import Clipping
from ding_normmon.metrics.collection import Collection
from ding_normmon.metrics.dormant_units import DormantUnits
from ding_normmon.metrics.gradient_conflict import GradientConflict
from ding_normmon.metrics.gradient_norms import GradientNorms
from ding_normmon.metrics.held_parameters import HeldParameters
from ding_normmon.metrics.learner_steps import LearnerSteps
from ding_normmon.metrics.local_gradients import HeadGradientNorms, LocalGradients, SynchronisedGradientNorms
from ding_normmon.metrics.loss_contributions import LossContributions
from ding_normmon.metrics.model_inputs import ModelInputs
from ding_normmon.metrics.own_cost import OwnCost
from ding_normmon.metrics.parameter_moves import ParameterMoves
from ding_normmon.metrics.parameter_norms import ParameterNorms
from ding_normmon.metrics.rank_agreement import RankAgreement
from ding_normmon.metrics.rank_norms import RankNorms
from ding_normmon.metrics.replicas import Replicas
from ding_normmon.metrics.representation_rank import RepresentationRank
from ding_normmon.metrics.schedules import Schedules
from ding_normmon.metrics.target_network import TargetDistance
from ding_normmon.metrics.task_losses import TaskLosses
from ding_normmon.metrics.tensor_statistics import TensorStatistics
from ding_normmon.metrics.updates import Updates
from ding_normmon.metrics.weight_magnitude import WeightMagnitude

__all__ = ['DECLARED', 'PRESETS', 'WATCHED', 'default_metrics', 'preset_metrics']

# Order matters in two places: gradient conflict adds backward passes at `forward_end`, and plasticity, which listens to
# the training backward pass, comes after it; own cost comes last, when everything else is known.
_Makers = tuple[Callable[[], Metric], ...]
_BASIC = (ParameterNorms, GradientNorms, TensorStatistics, TaskLosses)
_MULTITASK = (
    GradientConflict,
    LossContributions,
    RankAgreement,
    Updates,
    WeightMagnitude,
    DormantUnits,
    RepresentationRank,
)
_INVARIANTS = (
    RankNorms,
    Replicas,
    HeldParameters,
    ParameterMoves,
    Schedules,
    TargetDistance,
    BackwardCalls,
    ModelInputs,
)
_METRICS: tuple[type[Metric], ...] = (
    *_BASIC,
    LocalGradients,
    SynchronisedGradientNorms,
    Clipping,
    LearnerSteps,
    Collection,
    *_MULTITASK,
    *_INVARIANTS,
    OwnCost,
)

PRESETS: dict[str, _Makers] = {
    'basic': (*_BASIC, Clipping, LearnerSteps, Collection, *_INVARIANTS, OwnCost),
    'multitask': (*_BASIC, Clipping, LearnerSteps, Collection, *_MULTITASK, *_INVARIANTS, OwnCost),
    'full': (*_BASIC, partial(Clipping, fraction=True), LearnerSteps, Collection, *_MULTITASK, *_INVARIANTS, OwnCost),
}
"""``basic``: what costs next to nothing. ``multitask``: what sees tasks work against each other. ``full``: everything,
also what needs every step or further backward passes."""

DECLARED = Figures(
    [
        *((metric.name, figure) for metric in _METRICS for figure in metric.figures),
        *COMMON_FIGURES,
    ]
)
"""Every figure that the package declares, in the order of the metric reference."""

WATCHED = frozenset(
    {
        *(*_BASIC, HeadGradientNorms, LocalGradients, SynchronisedGradientNorms),
        *(Clipping, LearnerSteps, RankNorms, Replicas, HeldParameters, BackwardCalls, ModelInputs, OwnCost),
    }
)
"""Metrics that are also measured between two published records: what is compared from record to record, or needs every
bit of the weights, is not."""


def preset_metrics(preset: str) -> list[Metric]:
    """Return new metrics of a preset.

    >>> [metric.name for metric in preset_metrics('basic')][:2]
    ['parameter_norms', 'gradient_norms']
    """
    return [metric() for metric in PRESETS[preset]]


def default_metrics() -> list[Metric]:
    """Return the metrics that every monitor measures unless told otherwise."""
    return preset_metrics('basic')
