"""Records as TensorBoard events through a tensorboardX writer."""

from __future__ import annotations

from typing import Any

from tensorboardX.proto.summary_pb2 import Summary

from ding_normmon.record import Record

__all__ = ['TensorBoard', 'write_record']


def write_record(file_writer: Any, record: Record) -> None:
    """Write all scalars of a record as one event.

    One event that carries all values costs a twentieth of one ``add_scalar`` per value.

    Arguments:
        file_writer: a ``tensorboardX.FileWriter``, such as ``SummaryWriter.file_writer``.
        record: what to write, at step ``record.iteration``.
    """
    values = [Summary.Value(tag=name, simple_value=value) for name, value in record.scalars.items()]
    if values:
        file_writer.add_summary(Summary(value=values), record.iteration)


class TensorBoard:
    """A destination that writes through a ``tensorboardX.SummaryWriter`` of the user's.

    Arguments:
        writer: the writer; it stays the user's to close.
    """

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def publish(self, record: Record) -> None:
        """Write the record's scalars under their own names at the record's iteration."""
        write_record(self._writer._get_file_writer(), record)

    def close(self) -> None:
        """Flush the writer."""
        self._writer.flush()
