"""A run as it is read back from disk, written by this package or another program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ding_normmon.core.figures import Figures
from ding_normmon.core.finding import Finding
from ding_normmon.core.incident import Incident
from ding_normmon.core.record import Matrix, Record

__all__ = ['MatrixSeries', 'Note', 'Run', 'RunError', 'Series']


_PART = 1000
"""Records that are created at a time."""


class RunError(ValueError):
    """No run was found at a path; the message says what is there."""


@dataclass(frozen=True)
class Series:
    """The points of one metric, in the order of iterations, at most one per iteration.

    Arguments:
        iterations: int64, shape (N,), strictly increasing.
        values: float64, shape (N,); NaN and infinities are as they were measured.
        times: float64, shape (N,): seconds since 1970 at which each was written.
    """

    iterations: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    times: npt.NDArray[np.float64]


@dataclass(frozen=True)
class MatrixSeries:
    """The matrices of one name, in the order of iterations.

    Arguments:
        iterations: int64, shape (N,).
        values: float64, shape (N, len(rows), len(columns)).
        rows: what stands on the first axis, such as task ids.
        columns: what stands on the second axis.
        labels: what people call the entries of both axes.
    """

    iterations: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    rows: tuple[int | str, ...]
    columns: tuple[int | str, ...]
    labels: Mapping[int | str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Note:
    """A short text of one record."""

    iteration: int
    name: str
    text: str


@dataclass(frozen=True)
class Run:
    """All data of one run.

    Arguments:
        path: the folder or file that was read.
        series: metric name to points.
        matrices: name to matrices.
        tasks: global task id to name (``task 3`` if it has none); empty for a single-task run.
        configuration: the run's configuration as plain values, as far as it is known.
        notes: short texts, in the order of iterations.
        findings: the latest state of every finding that was written, in the order in which they were found.
        incidents: what went wrong, in order of time, each with the watched steps around it
            (:class:`~ding_normmon.core.incident.Incident`): what opened it and when, with which task, group and
            parameter it began, what left its level in which order (``incident.first``), and up to 256 watched steps
            before and 64 after as a table (``incident.window``). A run that died without closing has one more, of the
            kind ``'death'``, from its black box. ``tell_incident`` makes lines of text of one.
        warnings: sentences on what could not be read.
        rules: the rules of the findings that were made while the run trained; empty if unknown.
        figures: the declarations of the run's own metrics, those that are not from this package.
        is_ended: whether the writer of its history closed the file; None if unknown.
        about: ``ranks`` and ``versions`` of the packages it trained with, as far as they are known.
    """

    path: Path
    series: dict[str, Series] = field(default_factory=dict)
    matrices: dict[str, MatrixSeries] = field(default_factory=dict)
    tasks: dict[int, str] = field(default_factory=dict)
    configuration: dict[str, Any] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    rules: str = ''
    figures: Figures = field(default_factory=Figures, compare=False)
    is_ended: bool | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the run is called: the name of its folder."""
        return self.path.resolve().name

    def records(self) -> Iterator[Record]:
        """Yield the run record by record, as it was while it ran, without findings.

        Example:
            >>> series = Series(np.array([0, 5]), np.array([1.0, 2.0]), np.array([0.0, 1.0]))
            >>> [record.scalars for record in Run(Path('run'), {'grad/model/_total_norm': series}).records()]
            [{'grad/model/_total_norm': 1.0}, {'grad/model/_total_norm': 2.0}]
        """
        iterations = np.unique(
            np.concatenate(
                [
                    np.zeros(0, np.int64),
                    *(series.iterations for series in self.series.values()),
                    *(stack.iterations for stack in self.matrices.values()),
                    np.array([note.iteration for note in self.notes], np.int64),
                ]
            )
        )
        notes: dict[int, dict[str, str]] = {}
        for note in self.notes:
            notes.setdefault(note.iteration, {})[note.name] = note.text
        # A part of the run at a time, because a dictionary takes many times the space of its numbers.
        for part in np.array_split(iterations, max(1, len(iterations) // _PART)):
            if part.size:
                yield from self._records_of(int(part[0]), int(part[-1]), part, notes)

    def _records_of(
        self, first: int, last: int, iterations: npt.NDArray[np.int64], notes: Mapping[int, Mapping[str, str]]
    ) -> Iterator[Record]:
        scalars: dict[int, dict[str, float]] = {iteration: {} for iteration in iterations.tolist()}
        for name, series in self.series.items():
            begin, end = np.searchsorted(series.iterations, (first, last + 1))
            for iteration, value in zip(
                series.iterations[begin:end].tolist(), series.values[begin:end].tolist(), strict=True
            ):
                scalars[iteration][name] = value
        matrices: dict[int, dict[str, Matrix]] = {}
        for name, stack in self.matrices.items():
            begin, end = np.searchsorted(stack.iterations, (first, last + 1))
            for iteration, values in zip(stack.iterations[begin:end].tolist(), stack.values[begin:end], strict=True):
                matrices.setdefault(iteration, {})[name] = Matrix(values, stack.rows, stack.columns, stack.labels)
        for iteration, measured in scalars.items():
            yield Record(iteration, measured, matrices.get(iteration, {}), dict(notes.get(iteration, {})))
