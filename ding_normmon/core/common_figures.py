"""Declarations of figures that are not from a metric: those of the monitor itself and of the training program."""

from __future__ import annotations

from ding_normmon.core.figure import Chart, Figure, Prominence

__all__ = ['COMMON_FIGURES', 'ENTRY', 'MONITOR', 'MONITOR_SECTION']

MONITOR_SECTION = 'The monitor itself'
"""Heading of the metric reference."""

MONITOR = 'the monitor'
"""Source of the monitor's own figures, in place of a metric's name."""

ENTRY = 'the entry'
"""Source of figures that the training program logs."""

_HEALTH = 'Health of the record'
_RETURNS = 'Losses and returns'

_LOGGED: tuple[tuple[str, str, Prominence], ...] = (
    ('eval/{path}/return', 'Returns in evaluation', 'headline'),
    ('collect/{path}/return', 'Returns in training', 'headline'),
    ('{basic,evaluator_iter}/[{path}]{return,reward}_mean[{path}]', 'Mean return in evaluation', 'headline'),
    ('collect/{path}/mean_return', 'Mean returns of the last episodes in training', 'main'),
    ('collect/{path}/episode_length', 'Lengths of episodes in training', 'main'),
    ('random_policy/{path}/return', 'Returns of a random policy', 'detail'),
    ('collect/environment_steps', 'Environment steps', 'detail'),
)
"""What entries log: pattern, title of the chart, and prominence."""

COMMON_FIGURES: tuple[tuple[str, Figure], ...] = (
    (
        MONITOR,
        Figure(
            'monitor/missing_ranks',
            'number of ranks whose rows are missing from this record (several ranks only)',
            'count',
            bad_value='a slow or dead rank',
            section=MONITOR_SECTION,
            chart=Chart(_HEALTH, 'Further signs'),
        ),
    ),
    (
        MONITOR,
        Figure(
            'monitor/lost/{reason}',
            'amount of data lost since the last record, by reason; each reason is logged once',
            'count',
            bad_value='above 0: points are missing',
            section=MONITOR_SECTION,
            chart=Chart(_HEALTH, 'Lost'),
        ),
    ),
    (
        MONITOR,
        Figure(
            'monitor/cost/ms_diagnosis',
            'milliseconds of the rules for this record, in the background, on rank 0',
            'ms',
            section=MONITOR_SECTION,
            chart=Chart('Cost', 'Milliseconds of the rules'),
        ),
    ),
    *(
        (
            ENTRY,
            Figure(
                pattern,
                'as the entry logs it',
                'its own',
                signed=True,
                chart=Chart(_RETURNS, title),
                prominence=prominence,
                is_listed=False,
            ),
        )
        for pattern, title, prominence in _LOGGED
    ),
)
