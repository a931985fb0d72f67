"""The history file beside DI-engine's event file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ding.utils import DistributedWriter

from ding_normmon.integrations.ding_engine.announced import announced
from ding_normmon.runs.history_file import FILE_NAME, HistoryFile

__all__ = ['history_beside']


def history_beside(writer: DistributedWriter | None = None, name: Callable[[], str] = str) -> HistoryFile:
    """Return the history file in the folder of DI-engine's writer.

    Arguments:
        writer: the writer; by default the one that exists when the first record is published. Without one there is no
            history either: the writer's own destination says so.
        name: tells, when the first record comes, the folder in there for one of several policies; empty for none.
    """

    def current() -> Any:
        return writer or DistributedWriter.get_instance()

    def path() -> Path | None:
        if current() is None:
            return None
        folder = Path(current().logdir) / name()
        folder.mkdir(parents=True, exist_ok=True)
        return folder / FILE_NAME

    def configuration() -> Mapping[str, Any]:
        return announced(current()).configuration or {}

    return HistoryFile(path, configuration)
