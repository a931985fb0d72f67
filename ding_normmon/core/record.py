"""What one monitored iteration looks like when it is finished."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from ding_normmon.core.finding import Finding

__all__ = ['Matrix', 'Record']


@dataclass(frozen=True)
class Matrix:
    """A figure per pair, such as the cosine of two tasks' gradients.

    Arguments:
        values: shape (len(rows), len(columns)).
        rows: what stands on the first axis, such as task ids.
        columns: what stands on the second axis.
        labels: what people call the entries of both axes, such as the tasks' names; not all need one.
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
        scalars: metric name to value; a name is there exactly when it was measured.
        matrices: figures per pair; they never become tags.
        notes: short texts, such as where a non-finite value was first seen.
        findings: what was found, or found to have cleared, in this record.

    Example:
        >>> Record(10, {'norm/encoder/_total_norm': 3.5}).scalars['norm/encoder/_total_norm']
        3.5
    """

    iteration: int
    scalars: dict[str, float] = field(default_factory=dict)
    matrices: dict[str, Matrix] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
