"""The metric reference: what every name that the monitor writes means."""

from __future__ import annotations

from ding_normmon.metrics.reference import (
    clipping,
    interplay,
    learner_steps,
    own,
    parameters,
    plasticity,
    signals,
    task_losses,
)
from ding_normmon.metrics.reference.metric import Figure, Section
from ding_normmon.metrics.reference.page import render_page

__all__ = ['SECTIONS', 'Figure', 'Section', 'describe', 'render_page']

SECTIONS: tuple[Section, ...] = (
    parameters.SECTION,
    signals.SECTION,
    plasticity.SECTION,
    clipping.SECTION,
    learner_steps.SECTION,
    task_losses.SECTION,
    interplay.SECTION,
    own.SECTION,
)


def describe(name: str) -> Figure | None:
    """Return the row of the reference that is about a metric; None where there is none, as for a name of a user's.

    Example:
        >>> describe('norm/x_token_task3/max').unit
        'activation'
        >>> describe('norm/model/_total_norm').pattern
        'norm/model/_total_norm'
        >>> describe('collect/return_task0') is None
        True
    """
    found = [metric for section in SECTIONS for metric in section.metrics if metric.matches(name)]
    return max(found, key=lambda metric: metric.literal_length, default=None)
