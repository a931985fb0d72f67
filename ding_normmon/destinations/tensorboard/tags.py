"""Headlines once more under tags that TensorBoard's *Scalars* and *Time Series* tabs show first.

These tabs sort tags by the alphabet, make a group of everything before the first slash, and open the first groups only.
Every figure keeps its own name as its tag.
"""

from __future__ import annotations

from collections.abc import Mapping

from ding_normmon.core.figures import Figures
from ding_normmon.core.metric_names import task_in

__all__ = ['OVERVIEW', 'figure_of', 'overview']

OVERVIEW = '0_overview/'
"""Begins the tags of headlines that are written a second time; digits sort first in TensorBoard."""

_MOST = 12
"""Cards on the first page of a group."""


def figure_of(tag: str) -> str | None:
    """Return the figure of a tag; None for the second copy of a headline.

    >>> figure_of('noreduce_value_loss_task3'), figure_of('0_overview/grad/encoder')
    ('noreduce_value_loss_task3', None)
    """
    return None if tag.startswith(OVERVIEW) else tag


def overview(scalars: Mapping[str, float], figures: Figures) -> dict[str, float]:
    """Return the headlines of a record that are about all tasks, under their tags in the overview.

    >>> from ding_normmon.core.figure import Figure
    >>> figures = Figures([('norms', Figure('grad/{group}/_total_norm', '', '', prominence='headline'))])
    >>> overview({'agreement/encoder/ranks': 2.0, 'grad/head_task0/_total_norm': 1.0, 'grad/model/_total_norm': 3.0},
    ...          figures)
    {'0_overview/grad/model/_total_norm': 3.0}
    """
    chosen = [name for name in scalars if task_in(name) is None and figures.is_headline(name)]
    chosen.sort(key=figures.rank)
    return {f'{OVERVIEW}{name}': scalars[name] for name in chosen[:_MOST]}
