"""Every record, complete, in one file that survives whatever ends the process."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakSet

from ding_normmon.core.destination import RunDescription
from ding_normmon.core.install import install_command
from ding_normmon.core.record import Record
from ding_normmon.runs.declarations import own_figures
from ding_normmon.runs.file_names import FILE_NAME, is_history_name

__all__ = ['FILE_NAME', 'HistoryFile', 'is_history_name']

logger = logging.getLogger('ding_normmon')

_MOST_NAMES = 100
"""Names that are tried, ``history.arrows``, ``history-2.arrows`` and so on, before it is given up."""

_MOST_WAITING = 64 << 20
"""Bytes, roughly, that wait for a disk that cannot be written to."""


class HistoryFile:
    """A destination that appends each record to a history file, and incidents as soon as they open.

    Where the file is there already it goes on behind what is in it: a torn last record is cut off, anything else stays
    as it is, and what this start of the run measures again takes the place of what was there. The file is locked while
    it is open: a second writer, or one that finds a link or a file of another kind in its place, writes to
    ``history-2.arrows`` beside it and says so.

    What cannot be written waits in memory and is written as soon as that is possible; each record that had to wait
    raises its error, which whoever calls counts.

    Arguments:
        path: the file, or a function that returns it when the first record comes, None for none.
        configuration: the run's configuration as plain values, or a function that returns it; by default the monitor's.

    Attributes:
        path: the file that is written to; None before the first record.
        known_folder: where the file is, as far as that is known before the first record.

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

    takes_between = True

    def __init__(
        self,
        path: Path | str | Callable[[], Path | None],
        configuration: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        self.known_folder = None if callable(path) else Path(path).parent
        self._find: Callable[[], Path | None] = path if callable(path) else lambda: Path(path)
        self.path: Path | None = None
        self._is_off = False
        self._configuration = configuration
        self._description = RunDescription()
        self._encoder: Any = None
        self._file = -1
        self._end = 0
        self._unwritten = b''
        # What the bytes are of, for the case that they have to begin a file anew.
        self._waiting: deque[tuple[Record, float, int]] = deque()
        self._waiting_bytes = 0
        self._has_begun = False

    def begin(self, description: RunDescription) -> None:
        """Take the tasks' names, the monitor's configuration, and where the run begins.

        In a file that is there already it is written at once, so that what this start replaces is not shown any more.

        Raises:
            OSError: as :meth:`publish`; it is written with the first record then.
        """
        self._description = description
        path = None if description.begins_at is None or self._file >= 0 else self._find()
        if path is not None and os.path.lexists(path) and self._is_open():
            # A record of no rows: that it begins a stream says where the run goes on.
            self._unwritten += self._encoder.encode_rows(description.begins_at, time.time(), [], [], [], [])
            self._write()

    def publish(self, record: Record) -> None:
        """Append one record with one call.

        Raises:
            OSError: the disk is full, or the folder is gone or read-only; the record waits for a better time.
            RuntimeError: so many records wait that the oldest were dropped.
            ImportError: pyarrow is not installed.
        """
        if self._is_off:
            return
        entry = (record, time.time(), _size(record))
        self._waiting.append(entry)
        self._waiting_bytes += entry[2]
        if not self._is_open():
            return
        try:
            self._unwritten += self._encoder.encode(record, entry[1])
        except Exception:
            # A record that cannot be written at all must not hold up those behind it.
            self._waiting_bytes -= self._waiting.pop()[2]
            raise
        self._write()

    def close(self) -> None:
        """End the stream.

        Raises:
            OSError: what waits cannot be written; it is lost.
        """
        if self._is_off or (self._file < 0 and not self._waiting):
            return
        waiting = len(self._waiting)
        try:
            if self._is_open():
                self._unwritten += self._encoder.end()
                self._write()
        except OSError as error:
            raise OSError(f'{waiting} records that waited are lost: {error}') from error
        finally:
            self._release()

    def __del__(self) -> None:
        # One that nobody closed must not keep the file from the next.
        if getattr(self, '_file', -1) >= 0:
            os.close(self._file)

    @property
    def folder(self) -> Path | None:
        """Where the file is, or will be; None for nowhere."""
        path = self.path or self._find()
        return None if path is None else path.parent

    # -- the bytes -------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        data = self._unwritten
        try:
            written = os.pwrite(self._file, data, self._end)
            if written < len(data):
                raise OSError(errno.ENOSPC, f'{self.path}: the disk is full; make room, and nothing is lost')
        except OSError as error:
            self._take_back(error)
            raise
        self._end += len(data)
        self._unwritten = b''
        self._has_begun = True
        self._waiting.clear()
        self._waiting_bytes = 0

    def _take_back(self, error: OSError) -> None:
        """Leave no torn record behind, and find out at the next record whether the file can be opened again."""
        try:
            os.ftruncate(self._file, self._end)
        except OSError as second:
            logger.debug('monitor: %s keeps a torn end (%s) until it is opened again', self.path, second)
            self._release()
        if error.errno not in _NO_ROOM:
            self._release()
        self._limit()

    def _limit(self) -> None:
        """Drop the oldest half of what waits where that is too much."""
        if self._waiting_bytes <= _MOST_WAITING:
            return
        dropped = 0
        while self._waiting_bytes > _MOST_WAITING // 2 and len(self._waiting) > 1:
            self._waiting_bytes -= self._waiting.popleft()[2]
            dropped += 1
        if dropped:
            # The bytes have to be made again, without the records that were dropped.
            self._release()
            raise RuntimeError(
                f'{self.path}: could not be written for too long; {dropped} of the oldest records that waited are lost'
            )

    # -- the file --------------------------------------------------------------------------------------------------

    def _is_open(self) -> bool:
        """Open the file if it is not, with what waits encoded; tell whether there is one.

        Raises:
            OSError: it cannot be opened, or has gone away.
        """
        if self._file >= 0 and self.path is not None:
            try:
                is_same = _is_same(self.path, self._file)
            except OSError:
                # A handle that a file server no longer knows never becomes good again.
                self._release()
                self._limit()
                raise
            if is_same:
                self._limit()
                return True
            self._release()
            raise FileNotFoundError(
                errno.ENOENT, f'{self.path} is no longer there; a new one is begun as soon as its folder is there'
            )
        try:
            from ding_normmon.runs.format import Encoder
            from ding_normmon.runs.header import Header, about_this_run
            from ding_normmon.runs.rules import rules_of_today
        except ImportError as error:
            raise ImportError(
                f'{error}; to install what is missing: {install_command("history")}. Or do without the file: '
                'history=False'
            ) from error
        path = self._find()
        if path is None:
            self._is_off = True
            self._waiting.clear()
            return False
        try:
            if not self._has_begun:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._claim(path)
        except OSError:
            self._limit()
            raise
        first = self._waiting[0][0].iteration if self._waiting else None
        begin = self._description.begins_at
        if begin is None or (first is not None and first < begin):
            begin = first
        configuration = self._configuration() if callable(self._configuration) else self._configuration
        header = Header(
            self._description.tasks,
            configuration or dict(self._description.configuration),
            # A file that had to be opened again goes on where it was.
            None if self._has_begun else begin,
            rules_of_today(),
            figures=own_figures(self._description.figures),
            about=about_this_run(),
        )
        self._encoder = Encoder(header.plain())
        # The newest is encoded by whoever asks.
        for record, now, _ in list(self._waiting)[:-1]:
            self._unwritten += self._encoder.encode(record, now)
        return True

    def _claim(self, path: Path) -> None:
        """Open and lock the file, or another beside it where it is in use or of another kind.

        Raises:
            OSError: none can be opened.
        """
        reasons: list[str] = []
        for number in range(1, _MOST_NAMES + 1):
            candidate = path if number == 1 else path.with_name(f'{path.stem}-{number}{path.suffix}')
            reason = self._try(candidate)
            if reason is None:
                if reasons and candidate != self.path:
                    logger.warning('monitor: %s; this run writes to %s', '; '.join(reasons), candidate)
                self.path = candidate
                _open_files.add(self)
                return
            reasons.append(f'{candidate} {reason}')
        raise OSError(errno.EEXIST, f'{path}: {_MOST_NAMES} files of its name are in use or no history files')

    def _try(self, path: Path) -> str | None:
        """Open one file and go behind what is whole in it; return why not, where it is not ours to write to."""
        from ding_normmon.runs.streams import read_streams

        try:
            # A link is not followed, and a pipe not waited for.
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        except OSError as error:
            if error.errno in _NO_FILE:
                return 'is no regular file' if error.errno != errno.ELOOP else 'is a symbolic link'
            raise
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                os.close(file)
                return 'is no regular file'
            if not _lock(file, path):
                os.close(file)
                return 'is being written by another run'
            history = read_streams(path)
            if not history.is_ours:
                os.close(file)
                return 'is no history file'
            end = history.end
            os.ftruncate(file, end)
        except BaseException:
            os.close(file)
            raise
        for damage in history.damages:
            if not damage.is_torn:
                logger.warning(
                    'monitor: bytes %d to %d of %s are damaged (%s); they stay there, and readers leave them out: '
                    'normmon check --repair',
                    damage.start,
                    damage.stop,
                    path,
                    damage.reason,
                )
        self._file, self._end, self._unwritten = file, end, history.before_a_stream()
        return None

    def _release(self) -> None:
        """Close the file; what was encoded for it is made again for the next one."""
        # It is closed whatever `close` says, and its number may be another file's afterwards.
        file, self._file, self._encoder, self._unwritten = self._file, -1, None, b''
        _open_files.discard(self)
        if file >= 0:
            os.close(file)

    def _leave_to_parent(self) -> None:
        self._release()
        self._is_off = True


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_FILE = (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS)


def _lock(file: int, path: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning('monitor: %s cannot be locked (%s); start no two runs in one folder', path, error.strerror)
    return True


def _is_same(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(file))
    except FileNotFoundError:
        return False


def _size(record: Record) -> int:
    """Return roughly the bytes that a record takes while it waits."""
    matrices = sum(matrix.values.nbytes for matrix in record.matrices.values())
    matrices += sum(incident.window.values.nbytes for incident in record.incidents)
    return 100 * (len(record.scalars) + len(record.notes)) + 1000 * len(record.findings) + 2 * matrices + 1000


_open_files: WeakSet[HistoryFile] = WeakSet()


def _after_fork() -> None:
    # A child that outlives this process would hold the lock, and the run could not go on in its file.
    for file in list(_open_files):
        file._leave_to_parent()


os.register_at_fork(after_in_child=_after_fork)
