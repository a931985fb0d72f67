"""The event file of a tensorboardX writer: what it takes to append to it and to bring it to the disk.

tensorboardX hands an event to a queue between processes: one thread pickles it into a pipe, another reads it there and
writes it. For the learner of the same process that is two more threads that want its interpreter lock, and an error in
the second one ends it in silence. Records are written in a thread of their own anyway, so they go into the file there.
"""

from __future__ import annotations

import os
import shutil
import time
from typing import Any

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

__all__ = ['append_event', 'flush_events', 'refuse_unwritable']

_ROOM = 1 << 20
"""Bytes that must be free: more than a writer may hold back before it notices that its disk is full."""


def append_event(file_writer: Any, summary: Summary, iteration: int) -> None:
    """Write one event; it is on the disk when the writer flushes, as it does of itself (``flush_secs``).

    Arguments:
        file_writer: a ``tensorboardX.FileWriter``, such as ``SummaryWriter.file_writer``.
        summary: what it holds; not kept.
        iteration: its step.
    """
    event_writer = file_writer.event_writer
    file: Any = getattr(event_writer, '_ev_writer', None)
    worker: Any = getattr(event_writer, '_worker', None)
    if file is None or not hasattr(worker, '_has_pending_data'):
        # Another tensorboardX than those that are known.
        file_writer.add_summary(summary, iteration)
        return
    file.write_event(Event(summary=summary, step=iteration, wall_time=time.time()))
    # By which the writer's thread knows that there is something to flush.
    worker._has_pending_data = True


def refuse_unwritable(file_writer: Any) -> None:
    """Refuse a writer that could not write; to be asked before anything is made for it.

    An error ends the writer's own thread in silence, and the writer then blocks whoever calls it, the user's own code
    and the end of the process included; so a full disk must not reach it.

    Raises:
        OSError: the disk is full, the folder was removed, or the writer's own thread has died of something else.
    """
    event_writer = file_writer.event_writer
    worker = getattr(event_writer, '_worker', None)
    if worker is not None and not worker.is_alive():
        raise OSError('its writer thread has died; make room on the disk and start a new writer')
    path = getattr(getattr(event_writer, '_ev_writer', None), '_file_name', '')
    folder = os.path.dirname(path)
    if '://' in path or not folder:
        return
    if not os.path.exists(path):
        raise OSError(f'{path} is no longer there; restart the run to get a new file')
    if shutil.disk_usage(folder).free < _ROOM:
        raise OSError(f'the disk of {folder} is full; make room, and later records are written')


def flush_events(file_writer: Any) -> None:
    """Bring every event that was written so far to the disk.

    tensorboardX's own ``flush`` leaves out what its thread has not taken from its queue yet. The thread is therefore
    let run to the end of the queue, and another takes its place, as after ``reopen``.
    """
    event_writer = getattr(file_writer, 'event_writer', None)
    if event_writer is None:
        # The silent writer of a rank that owns no event file.
        return
    worker = getattr(event_writer, '_worker', None)
    if worker is not None and worker.is_alive():
        worker.stop()
        arguments = (event_writer._event_queue, event_writer._ev_writer, event_writer._flush_secs)
        event_writer._worker = type(worker)(*arguments)
        event_writer._worker.start()
    file_writer.flush()
