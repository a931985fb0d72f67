"""The finished record of one monitored iteration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from ding_normmon.core.finding import Finding
from ding_normmon.core.incident import Incident

__all__ = ['Matrix', 'Record']


@dataclass(frozen=True)
class Matrix:
    """A figure per pair, such as the cosine of two tasks' gradients.

    Arguments:
        values: shape (len(rows), len(columns)).
        rows: ids on the first axis, such as task ids.
        columns: ids on the second axis.
        labels: names of the ids on both axes, such as the tasks' names; ids without a name may be missing.

    Example:
        >>> import numpy as np
        >>> cosines = Matrix(np.array([[1.0, -0.5], [-0.5, 1.0]]), rows=(0, 3), columns=(0, 3), labels={3: 'Pong'})
        >>> cosines.values[cosines.rows.index(0), cosines.columns.index(3)].item()
        -0.5
    """

    values: npt.NDArray[Any]
    rows: tuple[int | str, ...]
    columns: tuple[int | str, ...]
    labels: Mapping[int | str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """Everything that was measured in one learner iteration, over all tasks and ranks.

    Arguments:
        iteration: the 0-based learner iteration whose step was measured.
        scalars: metric name to value; only names that were measured.
        matrices: figures per pair; they never become tags.
        notes: short texts, such as where a non-finite value was first seen.
        findings: findings raised or cleared in this record, or in a watched step since the published one before.
        incidents: incidents that were opened or completed; only destinations with ``takes_between`` get them.

    Example:
        >>> Record(10, {'norm/encoder/_total_norm': 3.5}).scalars['norm/encoder/_total_norm']
        3.5
    """

    iteration: int
    scalars: dict[str, float] = field(default_factory=dict)
    matrices: dict[str, Matrix] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    incidents: tuple[Incident, ...] = ()
