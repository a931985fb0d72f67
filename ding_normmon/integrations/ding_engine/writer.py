"""DI-engine's writer: one per run, also under torchrun, and as a destination of records."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from ding.framework import task
from ding.utils import DistributedWriter
from tensorboardX.proto.summary_pb2 import Summary

from ding_normmon.core.destination import RunDescription
from ding_normmon.core.record import Record
from ding_normmon.destinations.selection import for_dashboard
from ding_normmon.destinations.tensorboard.beside import Dashboard
from ding_normmon.destinations.tensorboard.destination import hide_abandoned, write_record
from ding_normmon.destinations.tensorboard.event_file import flush_events
from ding_normmon.destinations.tensorboard.figure_summaries import FigureSummaries
from ding_normmon.integrations.ding_engine.announced import announce, announced
from ding_normmon.integrations.ding_engine.remote_writer import RecordSender, accept_records

__all__ = ['DIEngineWriter', 'init_writer']

logger = logging.getLogger('ding_normmon')

_RETURNS = (
    'basic/eval_episode_return_mean',
    'basic/eval_episode_return_mean-env_step',
    'basic/eval_episode_return_mean-train_iter',
    'evaluator_iter/eval_episode_return_mean',
    'evaluator_iter/reward_mean',
)
"""Under one of these DI-engine's loggers write how the policy fares."""


def init_writer(cfg: Any, owns_file: bool | None = None) -> DistributedWriter:
    """Make DI-engine's writer for this run, as ``ding_init(cfg)`` does, but one per run and not one per process.

    Under ``torchrun`` every process would otherwise write into the same folder; on ranks other than 0 the writer
    accepts everything and writes nothing.

    Arguments:
        cfg: has ``exp_name``, the folder of the event file; what else it has is written to it as the run's
            configuration.
        owns_file: under ``ditask``, whether this process owns the one event file to which those of all processes write,
            as with ``DistributedWriter.plugin``. None: every process has a writer of its own, as with ``ding_init``.

    Returns:
        The writer, which DI-engine's loggers find by themselves.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from easydict import EasyDict
        >>> folder = Path(tempfile.mkdtemp())
        >>> init_writer(EasyDict(exp_name=str(folder / 'run'))).add_scalar('loss', 0.5, 0)
        >>> len(list(folder.rglob('events.out.tfevents.*')))
        1
    """
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    # `get_instance` keeps the first writer of the process; a second run in one process needs its own folder.
    DistributedWriter.root = None
    writer = DistributedWriter.get_instance(cfg.exp_name, write_to_disk=rank == 0)
    if isinstance(cfg, Mapping):
        announce(writer, configuration=cfg)
    if owns_file is not None:
        writer.plugin(task.router, is_writer=owns_file)
        accept_records(writer)
    return writer


class DIEngineWriter:
    """A destination that writes through DI-engine's ``DistributedWriter``.

    A record is one event of the file that this process owns, or under ``ditask`` one message to the process that owns
    it (:mod:`ding_normmon.integrations.ding_engine.remote_writer`). Beside the figures the file gets charts, the
    tasks' names, the findings and the configuration (:mod:`ding_normmon.destinations.tensorboard.beside`). Of many
    tasks it gets a selection (:mod:`ding_normmon.destinations.selection`); ``ctx.monitor_records`` has everything.

    Arguments:
        writer: the writer; by default the one that exists when the first record is published.
        elsewhere: which file has the figures too, so that nothing is lost where there is no writer; None for none.
    """

    def __init__(self, writer: DistributedWriter | None = None, elsewhere: str | None = None) -> None:
        self._writer = writer
        self._elsewhere = elsewhere
        self._has_said = False
        self._sender: RecordSender | None = None
        self._description: RunDescription | None = None
        self._dashboard = Dashboard(written_elsewhere=self._written_elsewhere)
        self._summaries = FigureSummaries()

    def open(self) -> None:
        """Make the event file, if this process owns it and it is not there yet.

        DI-engine makes it at the first value written. Records are written in a thread of their own, and where that and
        the logger come first at the same time, one of them writes into a file that the other has replaced.
        """
        writer = self._writer or DistributedWriter.get_instance()
        if writer is not None and not writer._lazy_initialized and (writer._is_writer or not writer._in_parallel):
            writer.initialize()
        accept_records(writer)

    def begin(self, description: RunDescription) -> None:
        """Take the tasks' names, and the configuration that :func:`init_writer` was given."""
        writer = self._writer or DistributedWriter.get_instance()
        # A run may be resumed before it has a writer.
        self._description = description if writer is None else None
        self._dashboard.begin(description, announced(writer).configuration)
        if writer is not None and (writer._is_writer or not writer._in_parallel):
            hide_abandoned(Path(writer.logdir), description)

    def _written_elsewhere(self) -> set[str]:
        return announced(self._writer or DistributedWriter.get_instance()).names.union(_RETURNS)

    def publish(self, record: Record) -> None:
        """Write the record's scalars under their own names at the record's iteration.

        Raises:
            RuntimeError: there is no writer, and the figures are in no other file; or the process that owns the event
                file does not answer any more.
            OSError: see :func:`~ding_normmon.destinations.tensorboard.destination.write_record`.
        """
        writer = self._writer or DistributedWriter.get_instance()
        if writer is None:
            self._do_without()
            return
        if self._description is not None:
            self.begin(self._description)
        if writer._in_parallel and not writer._is_writer:
            if self._sender is None:
                self._sender = RecordSender(writer)
            shown = for_dashboard(record.scalars, self._dashboard.figures)
            beside = Summary(value=self._dashboard.values(record, shown))
            self._sender.send(shown, record.iteration, beside.SerializeToString())
            return
        if not writer._lazy_initialized:
            writer.initialize()
        dashboard = self._dashboard
        write_record(writer._get_file_writer(), record, dashboard.values, self._summaries, dashboard.figures)

    def _do_without(self) -> None:
        where = self._elsewhere or 'ctx.monitor_records; call init_writer(cfg)'
        what = f'DI-engine has no writer, so figures are only in {where}'
        if self._elsewhere is None:
            raise RuntimeError(what)
        if not self._has_said:
            self._has_said = True
            logger.info('monitor: %s', what)

    def close(self) -> None:
        """Bring everything to the disk; the writer itself belongs to DI-engine."""
        writer = self._writer or DistributedWriter.get_instance()
        # A writer that writes nothing, on another rank or beside the process with the event file, has no events.
        if writer is not None and getattr(writer.file_writer, 'event_writer', None) is not None:
            flush_events(writer.file_writer)
