"""The history file beside DI-engine's event file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ding.utils import DistributedWriter

from ding_normmon.integrations.ding_engine.announced import announced
from ding_normmon.runs.history_file import FILE_NAME, HistoryFile

__all__ = ['history_beside']


def history_beside(
    writer: DistributedWriter | None = None,
    name: Callable[[], str] = str,
    folder: str | None = None,
    configuration: Mapping[str, Any] | None = None,
) -> HistoryFile:
    """Return the history file in the folder of DI-engine's writer.

    Arguments:
        writer: the writer; by default the one that exists when the first record is published.
        name: tells, when the first record comes, the folder in there for one of several policies; empty for none.
        folder: of the history where there is no writer; by default there is no history either, and the writer's own
            destination says where the figures are.
        configuration: of the run; by default what :func:`~ding_normmon.init_writer` was given.
    """

    def current() -> Any:
        return writer or DistributedWriter.get_instance()

    def path() -> Path | None:
        found = folder if current() is None else current().logdir
        if found is None:
            return None
        path = Path(found) / name()
        path.mkdir(parents=True, exist_ok=True)
        return path / FILE_NAME

    def known() -> Mapping[str, Any]:
        return configuration or announced(current()).configuration or {}

    return HistoryFile(path, known)
