"""DI-engine's writer: one per run, also under torchrun, and as a destination of records."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from ding.utils import DistributedWriter

from ding_normmon.publish.tensorboard import flush_events, write_record
from ding_normmon.record import Record

__all__ = ['DIEngineWriter', 'init_writer']


def init_writer(cfg: Any) -> DistributedWriter:
    """Make DI-engine's writer for this run, as ``ding_init(cfg)`` does, but one per run and not one per process.

    Under ``torchrun`` every process would otherwise write into the same folder; on ranks other than 0 the writer
    accepts everything and writes nothing.

    Arguments:
        cfg: has ``exp_name``, the folder of the event file.
    """
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    # `get_instance` keeps the first writer of the process; a second run in one process needs its own folder.
    DistributedWriter.root = None
    return DistributedWriter.get_instance(cfg.exp_name, write_to_disk=rank == 0)


class DIEngineWriter:
    """A destination that writes through DI-engine's ``DistributedWriter``.

    Where this process owns the event file, a record is one event; under ``ditask`` the main writer owns it and the
    scalars go there one by one, through DI-engine's router.

    Arguments:
        writer: the writer; by default the one that exists when the first record is published.
    """

    def __init__(self, writer: DistributedWriter | None = None) -> None:
        self._writer = writer

    def open(self) -> None:
        """Make the event file, if this process owns it and it is not there yet.

        DI-engine makes it at the first value written. Records are written in a thread of their own, and where that and
        the logger come first at the same time, one of them writes into a file that the other has replaced.
        """
        writer = self._writer or DistributedWriter.get_instance()
        if writer is not None and not writer._lazy_initialized and (writer._is_writer or not writer._in_parallel):
            writer.initialize()

    def publish(self, record: Record) -> None:
        """Write the record's scalars under their own names at the record's iteration."""
        writer = self._writer or DistributedWriter.get_instance()
        if writer is None:
            raise RuntimeError('there is no writer; call init_writer(cfg) at the beginning of training')
        if writer._in_parallel and not writer._is_writer:
            for name, value in record.scalars.items():
                writer.add_scalar(name, value, record.iteration)
            return
        if not writer._lazy_initialized:
            writer.initialize()
        write_record(writer._get_file_writer(), record)

    def close(self) -> None:
        """Bring everything to the disk; the writer itself belongs to DI-engine."""
        writer = self._writer or DistributedWriter.get_instance()
        if writer is not None and writer.file_writer is not None:
            flush_events(writer.file_writer)
