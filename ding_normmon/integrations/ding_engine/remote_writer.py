"""Records on their way to another process that owns the event file, through DI-engine's router.

DI-engine sends every scalar as a message of its own, over a message queue that drops what does not fit: of bursts of
200 scalars 85% were lost on one machine. A record is therefore one message, which the owner of the file confirms, and
which is sent again until it has. Where nobody confirms, because that process knows nothing of this package, the scalars
go one by one as DI-engine sends them, with a pause between them.

What travels is pickled, and unpickled, by DI-engine's router.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from typing import Any

from ding.utils import DistributedWriter
from tensorboardX.proto.summary_pb2 import Summary

from ding_normmon.core.record import Record
from ding_normmon.destinations.tensorboard.destination import write_record
from ding_normmon.destinations.tensorboard.event_file import flush_events

__all__ = ['RecordReceiver', 'RecordSender', 'accept_records']

logger = logging.getLogger('ding_normmon')

_RECORD, _TAKEN = 'ding_normmon_record', 'ding_normmon_taken'

AGAIN_SECONDS = 0.5
"""How long a message waits to be confirmed before it is sent again."""

PATIENCE_SECONDS = 5.0
"""How long a record is sent again and again before it is given up."""

PAUSE_SECONDS = 0.005
"""Between scalars that go one by one."""

_senders = itertools.count()


class RecordSender:
    """Sends records to the process that owns the event file, one after another.

    Arguments:
        writer: DI-engine's writer, plugged into an active router.
    """

    def __init__(self, writer: DistributedWriter) -> None:
        self._writer = writer
        self._router: Any = writer._router
        self._name = f'{self._router.node_id}/{os.getpid()}/{next(_senders)}'
        self._numbers = itertools.count()
        self._awaited = -1
        self._confirmed = threading.Event()
        self._one_by_one = False
        self._ever_confirmed = False
        self._router.on(_TAKEN, self._on_taken)

    def send(self, scalars: dict[str, float], iteration: int, beside: bytes = b'') -> None:
        """Send one record and wait until it has been written.

        Arguments:
            scalars: its figures.
            iteration: of the record.
            beside: a serialised ``Summary`` of what else goes into its event; lost where scalars go one by one.

        Raises:
            RuntimeError: the owner of the event file, which has confirmed earlier records, does not confirm this one.
        """
        if not self._one_by_one:
            if self._send_whole(scalars, iteration, beside):
                return
            if self._ever_confirmed:
                raise RuntimeError(
                    f'the process that owns the event file has confirmed nothing for {PATIENCE_SECONDS:g} s'
                )
            self._one_by_one = True
            logger.warning(
                'monitor: the process that owns the event file does not confirm records, so that scalars are sent one '
                'by one and some may be lost on the way; call ding_normmon.init_writer(cfg, owns_file=True) there'
            )
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, iteration)
            time.sleep(PAUSE_SECONDS)

    def _send_whole(self, scalars: dict[str, float], iteration: int, beside: bytes) -> bool:
        self._confirmed.clear()
        self._awaited = next(self._numbers)
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            self._router.emit(_RECORD, self._name, self._awaited, iteration, scalars, beside)
            if self._confirmed.wait(AGAIN_SECONDS):
                self._ever_confirmed = True
                return True
        return False

    def _on_taken(self, name: str, number: int) -> None:
        if name == self._name and number == self._awaited:
            self._confirmed.set()


class RecordReceiver:
    """Writes the records that other processes send, each once.

    Arguments:
        writer: DI-engine's writer, which owns the event file.
    """

    def __init__(self, writer: DistributedWriter) -> None:
        self._writer = writer
        self._last: dict[str, int] = {}
        self._failed: set[str] = set()
        self._lock = threading.Lock()
        writer._router.on(_RECORD, self._on_record)

    def _on_record(
        self, name: str, number: int, iteration: int, scalars: dict[str, float], beside: bytes = b''
    ) -> None:
        # DI-engine's event loop stops for good when a callback raises.
        try:
            with self._lock:
                if number > self._last.get(name, -1):
                    file_writer = self._writer._get_file_writer()
                    values = list(Summary.FromString(beside).value)
                    write_record(file_writer, Record(iteration, scalars), lambda *_: values)
                    # This process may end at any time, and what its writer holds back would be lost.
                    flush_events(file_writer)
                    self._last[name] = number
            self._writer._router.emit(_TAKEN, name, number)
        except Exception as error:
            if name not in self._failed:
                self._failed.add(name)
                logger.warning(
                    'monitor: a record of another process could not be written (%s: %s); logged once, the sender '
                    'counts what is not confirmed',
                    type(error).__name__,
                    error,
                )


_receivers: dict[int, RecordReceiver] = {}


def accept_records(writer: DistributedWriter | None) -> None:
    """Take the records of other processes, if this one owns the event file of several; once per writer."""
    if writer is not None and writer._in_parallel and writer._is_writer and id(writer) not in _receivers:
        _receivers[id(writer)] = RecordReceiver(writer)
