"""Whether a run is still being written."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ding_normmon.runs.run import Run

__all__ = ['RunState', 'state_of']

_LEAST = 60.0
"""Seconds after which a run may be called silent."""

_LOCKS = Path('/proc/locks')


@dataclass(frozen=True)
class RunState:
    """Whether a run is still running.

    Arguments:
        name: ``ended``: its writer closed the file. ``running``: records are coming. ``silent``: none has come for more
            than ten times as long as usual, and for a minute at least. ``died``: neither, the file was not closed, and
            no process of this machine has it open any more.
        silent: seconds since the last record; 0 if it has ended.
    """

    name: Literal['ended', 'running', 'silent', 'died']
    silent: float = 0.0


def state_of(run: Run, now: float | None = None) -> RunState:
    """Return whether a run is still running.

    Arguments:
        run: as it was read.
        now: seconds since 1970; the present by default.

    Example:
        >>> from ding_normmon.runs.run import Series
        >>> curve = Series(np.arange(3), np.ones(3), np.array([0.0, 10.0, 20.0]))
        >>> run = Run(Path('run'), {'loss': curve})
        >>> state_of(run, now=25.0), state_of(run, now=3600.0)
        (RunState(name='running', silent=5.0), RunState(name='silent', silent=3580.0))
    """
    if run.is_ended or not run.series:
        return RunState('ended')
    densest = max(run.series.values(), key=lambda series: len(series.times))
    last = max(float(series.times[-1]) for series in run.series.values())
    silent = max(0.0, (time.time() if now is None else now) - last)
    usual = float(np.median(np.diff(densest.times))) if len(densest.times) > 1 else 0.0
    if silent <= max(_LEAST, 10 * usual):
        return RunState('running', silent)
    return RunState('died' if run.is_ended is False and _is_held(run) is False else 'silent', silent)


def _is_held(run: Run) -> bool | None:
    """Return whether a process of this machine holds the history file; None if that cannot be seen.

    The file is not locked to find out: a run that starts at that moment would take it for another run's.
    """
    try:
        held = {line.split()[-3].rpartition(':')[2] for line in _LOCKS.read_text().splitlines() if ' FLOCK ' in line}
        files = list(run.path.rglob('history*.arrows')) if run.path.is_dir() else [run.path]
        return any(str(file.stat().st_ino) in held for file in files)
    except (OSError, IndexError):
        return None
