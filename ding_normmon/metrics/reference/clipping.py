"""Clipping of gradients."""

from __future__ import annotations

from ding_normmon.metrics.reference.metric import Figure, Section

__all__ = ['SECTION']

SECTION = Section(
    title='Clipping',
    metrics=(
        Figure(
            pattern='clip/{model}/coefficient',
            definition=(
                'min(1, c / (norm + 1e-6)): what a clip call by norm multiplies the gradients with, seen from '
                'outside or told by `step.clipped(norm, c)`; where gradients are changed by hand, the norm at the '
                "optimizer's step over that at the end of the backward pass, with a note; `{model}` is `model`, or the "
                'groups that are clipped; mean over the ranks where each clips its own gradients; 0 where an optimizer '
                'drops the gradient'
            ),
            unit='factor',
            hook_point='clip call',
            bad_value='far below 1 for long: the limit sets the step size',
        ),
        Figure(
            pattern='clip/{model}/fraction',
            definition=(
                'share of the learner steps since the last record with a coefficient below 1 '
                "(`clip_fraction=True` or `preset='full'`; looks at every step)"
            ),
            unit='share',
            hook_point='clip call',
            bad_value='near 1: as above; near 0: clipping is idle',
        ),
        Figure(
            pattern='clip/{model}/coefficient_{min,max}',
            definition='over the ranks, where each clips its own gradients',
            unit='factor',
            hook_point='clip call',
            bad_value='far apart: ranks are re-weighted against each other',
        ),
        Figure(
            pattern='clip/{model}_task{i}/weight',
            definition="there, the coefficient of the task's rank over the mean over tasks",
            unit='factor',
            hook_point='clip call',
            bad_value='below 1: clipping takes weight from this task',
        ),
    ),
)
