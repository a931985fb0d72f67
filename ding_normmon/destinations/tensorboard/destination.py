"""Records as TensorBoard events, through a writer of tensorboardX or of torch."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from tensorboardX.proto.summary_pb2 import Summary

from ding_normmon.core.destination import RunDescription
from ding_normmon.core.figures import Figures
from ding_normmon.core.record import Record
from ding_normmon.destinations.selection import for_dashboard
from ding_normmon.destinations.tensorboard.beside import Dashboard
from ding_normmon.destinations.tensorboard.event_file import append_event, flush_events, folder_of, refuse_unwritable
from ding_normmon.destinations.tensorboard.figure_summaries import FigureSummaries
from ding_normmon.destinations.tensorboard.heatmap import draw_matrix, is_drawn, load_matplotlib
from ding_normmon.destinations.tensorboard.resume import drop_records
from ding_normmon.destinations.tensorboard.tags import overview

__all__ = ['TensorBoard', 'hide_abandoned', 'write_record']

logger = logging.getLogger('ding_normmon')

_SHARE = 0.01
"""Largest share of the time to spend on drawing pictures."""

_NONE = Figures()

_next_picture: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

Beside = Callable[[Record, Collection[str]], list[Summary.Value]]
"""Returns the other summaries of a record's event, given the record and the names of the figures written."""


def write_record(
    file_writer: Any,
    record: Record,
    beside: Beside | None = None,
    summaries: FigureSummaries | None = None,
    figures: Figures = _NONE,
) -> None:
    """Write the scalars of a record, and its matrices of cosines as pictures, as one event.

    One event with all values costs a twentieth of one ``add_scalar`` per value. Above 12 tasks the file gets only the
    main figures of each task, above 64 the figures over all tasks and those of the worst 16, see
    :func:`~ding_normmon.destinations.selection.for_dashboard`.
    Without Matplotlib there are no pictures. If drawing would take more than 1% of the time, some records get none.

    Arguments:
        file_writer: of tensorboardX or torch, such as ``SummaryWriter.file_writer``.
        record: the record to write, at step ``record.iteration``.
        beside: makes the other summaries of the same event, such as :meth:`Dashboard.values
            <ding_normmon.destinations.tensorboard.beside.Dashboard.values>`.
        summaries: the summaries reused between records of the same destination.
        figures: declarations of the figures; with many tasks, details of single tasks are left out.

    Raises:
        OSError: the disk is full, the folder was removed, or the writer's own thread has died.
    """
    # Before anything is made: some of the summaries are made only once and would be lost.
    refuse_unwritable(file_writer)
    shown = for_dashboard(record.scalars, figures)
    values = _pictures(file_writer, record)
    if beside is not None:
        values += beside(record, shown)
    summary = (summaries or FigureSummaries()).of({**overview(shown, figures), **shown})
    if values:
        summary = Summary(value=[*summary.value, *values])
    if summary.value:
        append_event(file_writer, summary, record.iteration)


def _pictures(file_writer: Any, record: Record) -> list[Summary.Value]:
    """Draw the record's matrices, unless the last ones were drawn only a moment ago.

    Drawing holds the interpreter lock for 0.1 s with 4 tasks and 0.25 s with 26, which would delay learner steps.
    """
    drawn = {name: matrix for name, matrix in record.matrices.items() if is_drawn(name)}
    if not drawn or time.monotonic() < _next_picture.get(file_writer, 0.0):
        return []
    try:
        load_matplotlib()  # before the clock starts: the first import is slow
    except ImportError as error:
        _next_picture[file_writer] = math.inf
        logger.warning('monitor: matrices are not drawn because Matplotlib cannot be imported (%s)', error)
        return []
    values = []
    started = time.thread_time()
    for name, matrix in drawn.items():
        png, height, width = draw_matrix(f'{name}, iteration {record.iteration}', matrix)
        image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
        values.append(Summary.Value(tag=name, image=image))
    _next_picture[file_writer] = time.monotonic() + (time.thread_time() - started) / _SHARE
    return values


def hide_abandoned(folder: Path, description: RunDescription) -> None:
    """Hide in a folder's event files what a resumed run does again.

    A run that was not resumed may share its folder with others, whose records it must not hide.
    """
    if description.is_resumed and description.begins_at is not None:
        drop_records(folder, description.begins_at, description.abandoned)


class TensorBoard:
    """A destination that writes through the user's ``SummaryWriter``, tensorboardX's or torch's.

    In addition to the figures, the event file gets charts (under *Custom Scalars*), the tasks' names and the findings
    (*Text*) and the configuration (*HParams*).

    Arguments:
        writer: the writer; the user closes it.
        configuration: nested configuration of the run; by default the monitor's own.

    Raises:
        TypeError: another kind of writer.
    """

    def __init__(self, writer: Any, configuration: Mapping[str, Any] | None = None) -> None:
        folder_of(writer)  # refused now, not at every record
        self._writer = writer
        self._dashboard = Dashboard(configuration)
        self._summaries = FigureSummaries()

    def begin(self, description: RunDescription) -> None:
        """Set the tasks' names and the monitor's configuration; hide records that are measured again."""
        self._dashboard.begin(description)
        hide_abandoned(folder_of(self._writer), description)

    def publish(self, record: Record) -> None:
        """Write the record's scalars under their own names at the record's iteration."""
        dashboard = self._dashboard
        write_record(
            self._writer._get_file_writer(), record, dashboard.values, self._summaries, dashboard.figures
        )

    def close(self) -> None:
        """Flush everything to the disk."""
        flush_events(self._writer._get_file_writer())
