"""Where the black box of a run is: beside its history."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ding_normmon.core.config import MonitorConfig, bytes_of
from ding_normmon.runs.black_box import BlackBoxFile
from ding_normmon.runs.history_file import HistoryFile

__all__ = ['box_beside', 'box_in']


def box_in(folder: Callable[[], Path | None], config: MonitorConfig) -> BlackBoxFile | None:
    """Return the black box in a folder that is known when the first step was measured; None where none is wanted."""
    size = bytes_of(config.black_box)
    return BlackBoxFile(folder, size) if size and config.monitor_norm_freq else None


def box_beside(destinations: Iterable[Any], config: MonitorConfig) -> BlackBoxFile | None:
    """Return the black box beside the history file among some destinations; None where none of them is one."""
    history = next((entry for entry in destinations if isinstance(entry, HistoryFile)), None)
    return None if history is None else box_in(lambda: history.folder, config)
