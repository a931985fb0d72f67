"""Under which tags TensorBoard gets the figures, so that its *Scalars* and *Time Series* tabs open on what matters.

These tabs sort tags by the alphabet, make a group of everything before the first slash, and open the first groups only.
So headlines are written a second time in a group that sorts before all others, and LightZero's per-task losses, whose
names have no slash and would be a group each, share one.
"""

from __future__ import annotations

from collections.abc import Mapping

from ding_normmon.core.figures import Figures
from ding_normmon.core.metric_names import task_in

__all__ = ['LOSSES', 'OVERVIEW', 'figure_of', 'overview', 'tag_of_figure']

OVERVIEW = '0_overview/'
"""Begins the tags of headlines that are written a second time; digits sort first in TensorBoard."""

LOSSES = 'losses/'
"""Begins the tags of LightZero's ``noreduce_*`` figures; its name follows unchanged."""

_MOST = 12
"""Cards on the first page of a group."""


def tag_of_figure(name: str) -> str:
    """Return the tag of a figure.

    >>> tag_of_figure('noreduce_value_loss_task3'), tag_of_figure('grad/encoder/_total_norm')
    ('losses/noreduce_value_loss_task3', 'grad/encoder/_total_norm')
    """
    return f'{LOSSES}{name}' if name.startswith('noreduce_') else name


def figure_of(tag: str) -> str | None:
    """Return the figure of a tag; None for the second copy of a headline.

    >>> figure_of('losses/noreduce_value_loss_task3'), figure_of('losses/mine'), figure_of('0_overview/grad/encoder')
    ('noreduce_value_loss_task3', 'losses/mine', None)
    """
    if tag.startswith(OVERVIEW):
        return None
    return tag.removeprefix(LOSSES) if tag.startswith(f'{LOSSES}noreduce_') else tag


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
