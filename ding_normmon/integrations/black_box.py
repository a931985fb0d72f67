"""Where the black box of a run is: beside its history."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ding_normmon.core.config import MonitorConfig, bytes_of
from ding_normmon.ranks.transport import Transport
from ding_normmon.runs.black_box import BlackBoxFile
from ding_normmon.runs.history_file import HistoryFile

__all__ = ['box_beside', 'box_in']


def box_in(folder: Path | Callable[[], Path | None] | None, config: MonitorConfig) -> BlackBoxFile | None:
    """Return the black box in a folder, as :class:`~ding_normmon.runs.black_box.BlackBoxFile` takes it.

    None where none is wanted.
    """
    size = bytes_of(config.black_box)
    return BlackBoxFile(folder, size) if size and config.monitor_norm_freq else None


def box_beside(
    destinations: Iterable[Any], config: MonitorConfig, transport: Transport | None = None
) -> BlackBoxFile | None:
    """Return the black box beside the history file among some destinations.

    Where none of them is one, there is none on rank 0; that of another rank is beside the history of rank 0.
    """
    history = next((entry for entry in destinations if isinstance(entry, HistoryFile)), None)
    if history is not None:
        return box_in(history.known_folder or (lambda: history.folder), config)
    is_distributed = dist.is_available() and dist.is_initialized()
    rank = transport.rank if transport is not None else dist.get_rank() if is_distributed else 0
    return box_in(None, config) if rank else None
