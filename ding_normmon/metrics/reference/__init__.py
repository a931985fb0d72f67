"""The metric reference: the declarations of all metrics as a page."""

from __future__ import annotations

from collections.abc import Iterable

from ding_normmon.core.figure import Figure
from ding_normmon.metrics.sections import SECTIONS, Section

__all__ = ['render_page']

_INTRODUCTION = """\
# Metric reference

Every name that the monitor writes. `{i}` is always the **global** task id; `{group}` is `encoder`, `transformer`,
`head_value_task3` and so on; `{mean,std}` stands for any of these words; what is in `[...]` may be missing, as
`_task{i}` is for single-task policies. A name has a point exactly at the iterations where it was measured: nothing is
averaged over time, repeated or filled with 0. Figures without a task suffix cover all tasks of all ranks and only valid
(unpadded) steps; they are absent from a record in which a rank is missing.

`forward_end`: losses are known, the graph is alive, the weights are those that made the forward pass.
`local_backward_end`: the last backward pass is done, gradients are this rank's own.
`backward_end`: gradients are summed over the ranks, nothing has clipped them.
`step_end`: the optimizer has stepped.

This page is written by `python -m ding_normmon.metrics.reference`, from what the metrics declare (`figures` of each
class in `ding_normmon/metrics/`).
"""


def render_page(figures: Iterable[Figure], sections: Iterable[Section] = SECTIONS) -> str:
    """Return the metric reference as Markdown.

    Arguments:
        figures: all declarations; those of one section stand in their own order, each once.
        sections: in the order of the page; what figures name beside them comes behind them.

    Example:
        >>> figure = Figure('signal/{mean,std}', 'of |x|', 'its own', section='Signals')
        >>> render_page([figure], []).splitlines()[-1]
        '| `signal/{mean,std}` |  | of \\\\|x\\\\| | its own |  |'
    """
    listed = [figure for figure in dict.fromkeys(figures) if figure.is_listed]
    known = {section.title: section for section in sections}
    known |= {figure.section: Section(figure.section) for figure in listed if figure.section not in known}
    parts = [_INTRODUCTION]
    for section in known.values():
        parts.append(f'\n## {section.title}\n\n')
        if section.introduction:
            parts.append(f'{section.introduction}\n\n')
        parts.append('| name | a bad value means | definition | unit | hook point |\n|---|---|---|---|---|\n')
        parts.extend(_row(figure) for figure in listed if figure.section == section.title)
        if section.remarks:
            parts.append(f'\n{section.remarks}\n')
    return ''.join(parts)


def _row(figure: Figure) -> str:
    cells = (f'`{figure.pattern}`', figure.bad_value, figure.definition, figure.unit, figure.hook_point)
    return '| ' + ' | '.join(cell.replace('|', r'\|') for cell in cells) + ' |\n'
