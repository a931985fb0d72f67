"""Whether a run is still being written: running, silent, ended or died."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ding_normmon.core.terminal import time_text
from ding_normmon.runs.frames import END_OF_STREAM
from ding_normmon.runs.history_file import is_history_name
from ding_normmon.runs.run import Series

__all__ = ['Status', 'status_of']

State = Literal['running', 'silent', 'ended', 'died']

_LOCKS = Path('/proc/locks')
_FIRST_NAMESPACE = 0xEFFFFFFC
"""Linux's own number for the process namespace that sees all others."""
_SILENT = 60.0
"""Seconds without a new point after which a run is silent, if its points came faster before."""
_INTERVALS = 5
"""A run is silent after so many times the usual time between two of its points."""


@dataclass(frozen=True)
class Status:
    """How a run is doing, as its files tell.

    Arguments:
        state: ``running``; ``ended``: it closed its history; ``died``: it did not, and no process on this machine has
            the file open any more; ``silent``: nothing new for long, and nobody can tell why.
        age: seconds since something was written.
    """

    state: State
    age: float

    def __str__(self) -> str:
        ago = time_text(self.age)
        return {
            'running': f'running, last point {ago} ago',
            'silent': f'silent for {ago}',
            'ended': f'ended {ago} ago',
            'died': f'died, last point {ago} ago',
        }[self.state]


def status_of(path: Path, series: Mapping[str, Series] | None = None, now: float | None = None) -> Status:
    """Return the status of a run.

    Only file names, times and the last bytes are looked at, so that this is cheap for a folder of many runs.

    Arguments:
        path: the run's folder or file.
        series: its points; tells how often one is to be expected.
        now: seconds since 1970.
    """
    now = time.time() if now is None else now
    files = [path] if path.is_file() else list(path.iterdir()) if path.is_dir() else []
    histories = [file for file in files if is_history_name(file.name)]
    written = {file: file.stat().st_mtime for file in files if file in histories or 'tfevents' in file.name}
    if not written:
        return Status('silent', 0.0)
    age = max(0.0, now - max(written.values()))
    if histories:
        newest = max(histories, key=written.__getitem__)
        if _ends_with(newest, END_OF_STREAM):
            return Status('ended', max(0.0, now - written[newest]))
        is_held = _is_held(newest)
        if is_held is False and (_sees_all_processes() or age > _longest(series)):
            return Status('died', age)
    return Status('silent' if age > _longest(series) else 'running', age)


def _longest(series: Mapping[str, Series] | None) -> float:
    """Return the seconds between two points that are nothing to worry about."""
    times = max((one.times for one in (series or {}).values()), key=len, default=np.zeros(0))[-20:]
    usual = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    return max(_SILENT, _INTERVALS * usual)


def _ends_with(path: Path, end: bytes) -> bool:
    with path.open('rb') as file:
        file.seek(0, os.SEEK_END)
        file.seek(-min(file.tell(), len(end)), os.SEEK_END)
        return file.read() == end


def _is_held(path: Path) -> bool | None:
    """Return whether a process of this machine holds the writer's lock on a file; None where that cannot be seen.

    The lock itself is not tried: a writer that comes at that moment would find it taken.
    """
    try:
        locks = _LOCKS.read_text().splitlines()
        inode = f':{path.stat().st_ino} '
    except OSError:
        return None
    if any(' FLOCK ' in line and inode in line for line in locks):
        return True
    return False if _is_local(path) else None


def _sees_all_processes() -> bool:
    """Return whether the list of locks is of the whole machine, not only of this container."""
    try:
        return os.stat('/proc/self/ns/pid').st_ino == _FIRST_NAMESPACE
    except OSError:
        return False


def _is_local(path: Path) -> bool:
    """Return whether a file is on a disk of this machine, so that every lock on it is in the list."""
    kinds = {}
    try:
        for line in Path('/proc/mounts').read_text().splitlines():
            _, folder, kind, *_ = line.split(' ')
            kinds[folder] = kind
    except (OSError, ValueError):
        return False
    folders = [str(folder) for folder in path.resolve().parents]
    return next((kinds[folder] for folder in folders if folder in kinds), '') in _LOCAL


_LOCAL = ('ext2', 'ext3', 'ext4', 'xfs', 'btrfs', 'zfs', 'f2fs', 'tmpfs', 'overlay')
