"""Figures that come of no metric: what the monitor says of a record, and what entries log beside it."""

from __future__ import annotations

from ding_normmon.core.figure import Chart, Figure

__all__ = ['COMMON_FIGURES', 'ENTRY', 'MONITOR', 'MONITOR_SECTION']

MONITOR_SECTION = 'The monitor itself'
"""Heading of the metric reference."""

MONITOR = 'the monitor'
"""Stands in the place of a metric's name as the source of a figure."""

ENTRY = 'the entry'
"""The same for what the training program logs."""

_HEALTH = 'Health of the record'
_RETURNS = 'Losses and returns'

COMMON_FIGURES: tuple[tuple[str, Figure], ...] = (
    (
        MONITOR,
        Figure(
            pattern='monitor/missing_ranks',
            definition='ranks whose rows are not in this record (several ranks only)',
            unit='count',
            bad_value='a slow or dead rank',
            section=MONITOR_SECTION,
            kind='count',
            chart=Chart(_HEALTH, 'Further signs'),
        ),
    ),
    (
        MONITOR,
        Figure(
            pattern='monitor/lost/{reason}',
            definition='what was lost since the last record, by reason; the log says why, once',
            unit='count',
            bad_value='points are missing',
            section=MONITOR_SECTION,
            kind='count',
            chart=Chart(_HEALTH, 'Lost'),
        ),
    ),
    (
        MONITOR,
        Figure(
            pattern='monitor/cost/ms_diagnosis',
            definition='milliseconds that the rules took for this record, in the background, on rank 0',
            unit='ms',
            section=MONITOR_SECTION,
            kind='cost',
            chart=Chart('Cost', 'Milliseconds of the rules'),
        ),
    ),
    *(
        (
            ENTRY,
            Figure(
                pattern=pattern,
                definition='as the entry logs it',
                unit='its own',
                signed=True,
                chart=Chart(_RETURNS, title),
                prominence='headline',
                is_listed=False,
            ),
        )
        for pattern, title in (
            ('eval/{path}/return', 'Returns in evaluation'),
            ('collect/{path}/return', 'Returns in training'),
            ('{basic,evaluator_iter}/[{path}]{return,reward}_mean[{path}]', 'Mean return in evaluation'),
            ('collect/{path}/episode_length', 'Lengths of episodes in training'),
        )
    ),
)
