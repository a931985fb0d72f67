"""Appends to and flushes the event file of a writer, tensorboardX's or torch's.

tensorboardX puts an event into a multiprocessing queue: one thread pickles it into a pipe, another reads it there and
writes it. These are two more threads that compete with the learner for the interpreter lock, and an error in the second
one ends it silently. Records are written in a background thread anyway, so that thread writes the file directly.

``torch.utils.tensorboard`` writes through TensorBoard's ``EventFileWriter``, which takes events of another protobuf
class with the same bytes. It has one thread and a plain queue, and raises that thread's error at the next call.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

__all__ = ['append_event', 'flush_events', 'folder_of', 'refuse_unwritable']

_ROOM = 1 << 20
"""Bytes that must be free: more than a writer buffers before it notices that its disk is full."""


def folder_of(writer: Any) -> Path:
    """Return the folder of a writer's event file.

    Raises:
        TypeError: neither tensorboardX's nor torch's ``SummaryWriter``, nor a subclass of one.
    """
    folder = getattr(writer, 'log_dir', None) or getattr(writer, 'logdir', None)
    if not callable(getattr(writer, '_get_file_writer', None)) or not isinstance(folder, (str, os.PathLike)):
        raise TypeError(
            f'expected a SummaryWriter of tensorboardX or torch.utils.tensorboard, got {type(writer).__qualname__} of '
            f'{type(writer).__module__}'
        )
    return Path(folder)


def append_event(file_writer: Any, summary: Summary, iteration: int) -> None:
    """Write one event; it reaches the disk when the writer flushes, by itself every ``flush_secs``.

    Arguments:
        file_writer: of tensorboardX or torch, such as ``SummaryWriter.file_writer``.
        summary: content of the event; not kept.
        iteration: its step.
    """
    event_writer = file_writer.event_writer
    event = Event(summary=summary, step=iteration, wall_time=time.time())
    if type(event_writer).__module__.startswith('tensorboard.'):
        from tensorboard.compat.proto.event_pb2 import Event as TensorBoardEvent

        event_writer.add_event(TensorBoardEvent.FromString(event.SerializeToString()))
        return
    file: Any = getattr(event_writer, '_ev_writer', None)
    worker: Any = getattr(event_writer, '_worker', None)
    if file is None or not hasattr(worker, '_has_pending_data'):
        # An unknown version of tensorboardX.
        file_writer.add_summary(summary, iteration)
        return
    file.write_event(event)
    # This tells the writer's thread that there is something to flush.
    worker._has_pending_data = True


def refuse_unwritable(file_writer: Any) -> None:
    """Raise if a writer cannot write; call it before making the event.

    An error ends the writer's own thread silently. The writer then blocks every caller, including the user's own code
    and the end of the process, so it must never meet a full disk.

    Raises:
        OSError: the disk is full, the folder was removed, or the writer's own thread has died.
    """
    event_writer = file_writer.event_writer
    worker = getattr(event_writer, '_worker', None)
    if worker is not None and not worker.is_alive():
        raise OSError('the thread of the TensorBoard writer has died; make room on the disk and create a new writer')
    # tensorboardX's writer, else TensorBoard's own.
    path = getattr(getattr(event_writer, '_ev_writer', event_writer), '_file_name', '')
    folder = os.path.dirname(path)
    if '://' in path or not folder:
        return
    if not os.path.exists(path):
        raise OSError(f'{path} no longer exists; restart the run to get a new file')
    if shutil.disk_usage(folder).free < _ROOM:
        raise OSError(f'the disk of {folder} is full; later records are written once there is room')


def flush_events(file_writer: Any) -> None:
    """Flush every event written so far to the disk.

    tensorboardX's own ``flush`` skips events that are still in its queue. So its thread is run to the end of the queue
    and then replaced by a new one, as after ``reopen``.
    """
    event_writer = getattr(file_writer, 'event_writer', None)
    if event_writer is None:
        # A rank without an event file has a writer that does nothing.
        return
    worker = getattr(event_writer, '_worker', None)
    if worker is not None and worker.is_alive():
        worker.stop()
        arguments = (event_writer._event_queue, event_writer._ev_writer, event_writer._flush_secs)
        event_writer._worker = type(worker)(*arguments)
        event_writer._worker.start()
    file_writer.flush()
