"""Every record, complete, in one file that survives whatever ends the process."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ding_normmon.core.destination import RunDescription
from ding_normmon.core.record import Record

__all__ = ['FILE_NAME', 'HistoryFile']

FILE_NAME = 'history.arrows'
"""What the file is called in a run's folder."""


class HistoryFile:
    """A destination that appends each record to a history file.

    Where the file is there already it goes on behind what is in it: a torn end is cut off, and of iterations that are
    there twice the later one counts.

    Arguments:
        path: the file, or a function that returns it when the first record comes, None for none.
        configuration: the run's configuration as plain values, or a function that returns it; by default the monitor's.

    Raises:
        ImportError: pyarrow is not installed.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> file = HistoryFile(folder / FILE_NAME)
        >>> file.begin(RunDescription({0: 'Pong'}))
        >>> file.publish(Record(0, {'grad/model/_total_norm': 2.5}))
        >>> file.close()
        >>> from ding_normmon.runs import read_run
        >>> run = read_run(folder)
        >>> run.tasks, run.series['grad/model/_total_norm'].values.tolist()
        ({0: 'Pong'}, [2.5])
    """

    def __init__(
        self,
        path: Path | str | Callable[[], Path | None],
        configuration: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self._find: Callable[[], Path | None] = path if callable(path) else lambda: Path(path)
        self._path: Path | None = None
        self._is_off = False
        self._configuration = configuration
        self._description = RunDescription()
        self._encoder: Any = None
        self._file = -1
        self._end = 0
        self._unwritten = b''

    def begin(self, description: RunDescription) -> None:
        """Take the tasks' names and the monitor's configuration."""
        self._description = description

    def publish(self, record: Record) -> None:
        """Append one record with one call.

        Raises:
            OSError: the disk is full or the folder is gone; what was written of the record is taken back.
            ImportError: pyarrow is not installed.
        """
        if self._is_off or (self._file < 0 and not self._open()):
            return
        if self._path is not None and not self._path.exists():
            raise FileNotFoundError(f'{self._path} is no longer there; restart the run to get a new file')
        # A dictionary's names are sent once: what could not be written goes before the next record.
        self._unwritten += self._encoder.encode(record)
        self._write()

    def close(self) -> None:
        """End the stream."""
        if self._file < 0:
            return
        try:
            self._unwritten += self._encoder.end()
            self._write()
        finally:
            os.close(self._file)
            self._file = -1

    def _open(self) -> bool:
        try:
            from ding_normmon.runs.format import Encoder
            from ding_normmon.runs.streams import whole_streams
        except ImportError as error:
            raise ImportError(
                f'{error}; pip install "ding_normmon[history]", or switch the history off with history=False'
            ) from error
        path = self._find()
        if path is None:
            self._is_off = True
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        self._end, ending = whole_streams(path) if path.exists() else (0, b'')
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        os.ftruncate(self._file, self._end)
        self._path, self._unwritten = path, ending
        configuration = self._configuration() if callable(self._configuration) else self._configuration
        self._encoder = Encoder(self._description.tasks, configuration or dict(self._description.configuration))
        return True

    def _write(self) -> None:
        data = self._unwritten
        try:
            written = os.pwrite(self._file, data, self._end)
            if written < len(data):
                raise OSError(f'{self._path}: the disk is full; make room, and nothing is lost')
        except OSError:
            os.ftruncate(self._file, self._end)
            if len(self._unwritten) > _KEPT:
                raise RuntimeError(
                    f'{self._path}: the disk has been full for too long; the history ends here'
                ) from None
            raise
        self._end += len(data)
        self._unwritten = b''


_KEPT = 64 << 20
"""Bytes that wait for room on the disk."""
