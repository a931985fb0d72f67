"""A figure that is away from its past."""

from __future__ import annotations

from dataclasses import dataclass

from ding_normmon.core.figure import Figure

__all__ = ['Departure']


@dataclass(frozen=True)
class Departure:
    """A figure that is away from its past.

    Arguments:
        name: the figure.
        figure: its declaration.
        task: global id of its task; None where it has none.
        family: its name without the task.
        strength: 1 at the threshold.
        shift: difference to the past on the figure's own scale, with its sign.
        others: median shift of the same figure of the other tasks; NaN where there is none.
        approaches: whether it is nearer to the other tasks' level than it was.
        level: median of the newest points.
        past: median of the past.
        since: iteration at which it left.
        age: its points since then.
        is_rare: whether it is measured in some records only.
        is_sudden: whether it left from one point to the next.
    """

    name: str
    figure: Figure
    task: int | None
    family: str
    strength: float
    shift: float
    others: float
    approaches: bool
    level: float
    past: float
    since: int
    age: int
    is_rare: bool
    is_sudden: bool
