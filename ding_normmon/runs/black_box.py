"""The black box of one rank: a ring file with what was measured last, which survives whatever ends the process."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np

from ding_normmon.core.record import Record
from ding_normmon.runs.slots import EVENT, HEADER_BYTES, OWN, RECORD, encode_header, encode_slot, pack_names

__all__ = ['BlackBoxFile', 'box_name', 'is_in_use', 'previous_name']

_MOST_WAITING = 64
_NAMES_KEPT = 8
_MOST_FILES = 100


def box_name(rank: int) -> str:
    """Return what the file of one rank is called.

    >>> box_name(3)
    'black_box-rank3.ring'
    """
    return f'black_box-rank{rank}.ring'


def previous_name(path: Path) -> Path:
    """Return what the file of an earlier start of the run is renamed to.

    >>> previous_name(Path('run/black_box-rank3.ring')).name
    'black_box-rank3.previous.ring'
    """
    return path.with_name(f'{path.stem}.previous.ring')


class BlackBoxFile:
    """Writes the ring file of one rank, in a thread of its own, with ``os.pwrite``.

    The kernel has what was written, so that it survives SIGKILL, a lack of memory and a segmentation fault. The file is
    allocated in full before its first slot; where that cannot be done there is none. A file that an earlier start of
    the run has left is renamed (:func:`previous_name`), and one that another run is writing is left alone. A run that
    ends in order cuts off what was never used.

    Arguments:
        folder: where the file is, or a function that returns that when the first step was measured; None for where rank
            0 keeps the run's files, or for nowhere where it keeps none.
        size: bytes of the file.

    Attributes:
        path: the file; None before the first slot.
        known_folder: where the file is, as far as that is known before the first step.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> box = BlackBoxFile(folder, size=1 << 20)
        >>> box.begin({'tasks': {0: 'Pong'}}, print)
        >>> box.keep_record(Record(8, {'grad/model/_total_norm': 2.5}), {})
        >>> box.close(5.0)
        >>> from ding_normmon.runs.read_black_box import read_box
        >>> found = read_box(folder / 'black_box-rank0.ring')
        >>> found.ending, found.window.iterations.tolist(), found.window.values.tolist()
        ('closed', [8], [[2.5]])
    """

    def __init__(self, folder: Path | str | Callable[[], Path | None] | None, size: int) -> None:
        self.known_folder = None if folder is None or callable(folder) else Path(folder)
        self._folder = folder if callable(folder) else lambda: self.known_folder
        self._told: str | None = None
        self.path: Path | None = None
        self.processor_time = 0.0
        self._rank = 0
        self._size = size
        self._about: dict[str, Any] = {}
        self._paths: Mapping[str, Any] = {}
        self._lost: Callable[[str], object] = lambda what: None
        self._jobs: deque[Callable[[], bytes]] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._is_closing = self._is_off = False
        # Only the thread uses the following.
        self._file = -1
        self._at = HEADER_BYTES
        self._has_wrapped = False
        self._sequence = 0
        self._packed: dict[Any, bytes] = {}

    # -- what is kept ----------------------------------------------------------------------------------------------

    def begin(self, about: Mapping[str, Any], lost: Callable[[str], object]) -> None:
        """Take what is known of the run, and whom to tell of what cannot be written; again where groups change."""
        self._about, self._lost = {**about, 'paths': None, 'folder': None}, lost
        self._told = about.get('folder')
        self._rank = int(about.get('rank', 0))
        self._paths = about.get('paths') or {}
        self._packed = {}

    def keep_own(self, make: Callable[[], Any]) -> None:
        """Keep what this rank has measured in one step; ``make`` returns the batch of its rows."""
        self._put(lambda: self._own(make()))

    def _own(self, batch: Any) -> bytes:
        vectors = tuple((key, len(vector)) for key, vector in batch.vectors.items())
        names = self._names((batch.keys, vectors), {'rows': batch.keys, 'vectors': vectors, 'paths': self._paths})
        numbers = np.concatenate([batch.rows.ravel(), *batch.vectors.values()])
        return self._slot(batch.iteration, OWN, names, numbers)

    def keep_record(self, record: Record, parameters: Mapping[str, float]) -> None:
        """Keep the figures of all ranks (on rank 0), and the norms of single parameters."""

        def make() -> bytes:
            names = (*record.scalars, *parameters)
            numbers = np.fromiter((*record.scalars.values(), *parameters.values()), np.float64, len(names))
            text = {
                'notes': record.notes,
                'findings': [finding.sentence for finding in record.findings if finding.is_active],
            }
            return self._slot(record.iteration, RECORD, self._names(names, names), numbers, text)

        self._put(make)

    def keep_event(self, iteration: int, event: Mapping[str, Any]) -> None:
        """Keep something that happened beside the figures, such as an exception."""
        self._put(lambda: self._slot(iteration, EVENT, text=dict(event)))

    def close(self, timeout: float) -> None:
        """Write what waits, for at most so many seconds, and note that the run has ended in order."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                self._lost(f'{self.path}: the black box could not be closed within {timeout:g} s')

    def __del__(self) -> None:
        if getattr(self, '_file', -1) >= 0:
            os.close(self._file)

    # -- the thread ------------------------------------------------------------------------------------------------

    def _put(self, job: Callable[[], bytes]) -> None:
        if self._is_off:
            return
        with self._wake:
            if len(self._jobs) >= _MOST_WAITING:
                self._jobs.popleft()
                self._lost(f'{self.path}: the disk is too slow for the black box; its oldest waiting step was dropped')
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name='ding_normmon black box', daemon=True)
                self._thread.start()
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._jobs and not self._is_closing:
                    self._wake.wait()
                job = self._jobs.popleft() if self._jobs else None
            try:
                if self._is_off:
                    return
                if self._file < 0 and not self._open():
                    return
                if job is None:
                    self._end()
                    return
                self._write(job())
            except Exception as error:
                self._lost(f'{self.path}: what was measured could not be kept ({type(error).__name__}: {error})')
                if job is None:
                    return
            self.processor_time = time.thread_time()

    def _names(self, key: Any, names: Any) -> bytes:
        packed = self._packed.get(key)
        if packed is None:
            packed = pack_names(names)
            # The same names come step after step.
            self._packed = {**dict(list(self._packed.items())[-_NAMES_KEPT + 1 :]), key: packed}
        return packed

    def _slot(self, iteration: int, kind: int, names: bytes = b'', numbers: Any = None, text: Any = None) -> bytes:
        return encode_slot(self._sequence, iteration, time.time(), kind, names, numbers, text)

    def _write(self, data: bytes) -> None:
        if len(data) > self._size - HEADER_BYTES:
            raise ValueError(f'one step takes {len(data)} bytes; give the black box more than {self._size}')
        if self._at + len(data) > self._size:
            self._at, self._has_wrapped = HEADER_BYTES, True
        written = os.pwrite(self._file, data, self._at)
        if written < len(data):
            raise OSError(errno.ENOSPC, 'the disk is full')
        self._at += len(data)
        self._sequence += 1

    def _end(self) -> None:
        self._write(self._slot(-1, EVENT, text={'closed': True}))
        if not self._has_wrapped:
            os.ftruncate(self._file, self._at)
            self._write_header(self._at)
        os.close(self._file)
        self._file = -1
        _open_files.discard(self)

    # -- the file --------------------------------------------------------------------------------------------------

    def _open(self) -> bool:
        """Allocate the file; tell whether there is one."""
        folder = self._folder() or (self._told and Path(self._told))
        if not folder:
            self._is_off = True
            return False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.path = self._claim(folder / box_name(self._rank))
        except OSError as error:
            self._is_off = True
            self._jobs.clear()
            self._lost(
                f'{folder / box_name(self._rank)}: no black box of {self._size >> 20} MB could be allocated '
                f'({error.strerror or error}); training goes on without it. Set black_box to less, or to None'
            )
            return False
        _open_files.add(self)
        return True

    def _claim(self, wanted: Path) -> Path:
        for number in range(1, _MOST_FILES + 1):
            path = wanted if number == 1 else wanted.with_name(f'{wanted.stem}-{number}{wanted.suffix}')
            if not is_in_use(path):
                if path.exists() and not path.is_symlink():
                    os.replace(path, previous_name(path))
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
                try:
                    _lock(file)
                    _allocate(file, self._size)
                    self._file = file
                    self._write_header(self._size)
                except OSError:
                    self._file = -1
                    os.close(file)
                    os.unlink(path)
                    raise
                return path
        raise OSError(errno.EEXIST, f'{_MOST_FILES} black boxes are in use there')

    def _write_header(self, size: int) -> None:
        process = {'pid': os.getpid(), 'host': socket.gethostname(), 'started': time.time()}
        about = {'size': size, 'rank': self._rank, **process, **self._about}
        os.pwrite(self._file, encode_header(about), 0)

    def _leave_to_parent(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file, self._is_off = -1, True


def _allocate(file: int, size: int) -> None:
    if hasattr(os, 'posix_fallocate'):
        os.posix_fallocate(file, 0, size)
        return
    block = bytes(1 << 20)
    for start in range(0, size, len(block)):
        os.pwrite(file, block[: size - start], start)


def _lock(file: int) -> None:
    # Where a file cannot be locked, readers cannot tell a run that goes on from one that died.
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS):
            raise


def is_in_use(path: Path) -> bool:
    """Tell whether a run is writing a file, or whether it is something else that is left alone."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        # A link, a folder or something that may not be read: left alone.
        return True
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return True
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False


_open_files: WeakSet[BlackBoxFile] = WeakSet()


def _after_fork() -> None:
    # A child that outlives this process would look like a run that goes on.
    for file in list(_open_files):
        file._leave_to_parent()


os.register_at_fork(after_in_child=_after_fork)
