"""The history file beside DI-engine's event file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ding.utils import DistributedWriter

from ding_normmon.integrations.ding_engine.announced import announced
from ding_normmon.runs.history_file import FILE_NAME, HistoryFile

__all__ = ['folder_of_run', 'history_beside']


def history_beside(
    writer: DistributedWriter | None = None,
    name: Callable[[], str] = str,
    folder: str | None = None,
    configuration: Mapping[str, Any] | None = None,
) -> HistoryFile:
    """Return the history file in the folder of DI-engine's writer.

    Arguments:
        writer: the writer; by default the one that exists when the first record is published.
        name: called when the first record comes; returns the subfolder of one of several policies, empty for none.
        folder: folder of the history if there is no writer; by default there is no history then, and the writer's own
            destination logs where the figures are.
        configuration: configuration of the run; by default what :func:`~ding_normmon.init_writer` was given.
    """

    find = folder_of_run(writer, name, folder)

    def path() -> Path | None:
        found = find()
        if found is None:
            return None
        found.mkdir(parents=True, exist_ok=True)
        return found / FILE_NAME

    def known() -> Mapping[str, Any]:
        return configuration or announced(writer or DistributedWriter.get_instance()).configuration or {}

    return HistoryFile(path, known)


def folder_of_run(
    writer: DistributedWriter | None = None, name: Callable[[], str] = str, folder: str | None = None
) -> Callable[[], Path | None]:
    """Return a function that finds the folder of DI-engine's writer; arguments as of :func:`history_beside`."""

    def find() -> Path | None:
        current: Any = writer or DistributedWriter.get_instance()
        found = folder if current is None else current.logdir
        return None if found is None else Path(found) / name()

    return find
