"""Losses that the policy reports."""

from __future__ import annotations

from ding_normmon.metrics.reference.metric import Figure, Section

__all__ = ['SECTION']

SECTION = Section(
    title='Losses of the policy',
    metrics=(
        Figure(
            pattern='noreduce_{loss}_task{i}',
            definition=(
                "LightZero's per-task losses, returned by the policy every step; at monitored iterations the "
                'monitor writes them for the tasks of all ranks'
            ),
            unit='loss',
            hook_point='`publish_loss`',
            bad_value='one task does not learn',
        ),
    ),
)
