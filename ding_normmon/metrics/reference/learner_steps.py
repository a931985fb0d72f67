"""Learner steps that are skipped."""

from __future__ import annotations

from ding_normmon.metrics.reference.metric import Figure, Section

__all__ = ['SECTION']

SECTION = Section(
    title='Learner steps',
    metrics=(
        Figure(
            pattern='step/skipped',
            definition=(
                'backward passes since the last record that moved no weights, because the loop or a `GradScaler` left '
                "the optimizer's step out; they are no learner steps and have no record; most of any rank; absent "
                'where there were none'
            ),
            unit='steps',
            hook_point='optimizer step',
            bad_value='above 0 again and again: the loss overflows, or is not finite',
        ),
        Figure(
            pattern='step/loss_scale',
            definition='what the loss was multiplied by (`GradScaler.get_scale()`); gradients are shown without it',
            unit='factor',
            hook_point='optimizer step',
            bad_value='falling towards 1: gradients overflow at any scale',
        ),
    ),
)
