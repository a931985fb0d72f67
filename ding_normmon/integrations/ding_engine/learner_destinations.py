"""Where the records of a ``BaseLearner`` go: through its own writer, and into the history file beside it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ding.utils import DistributedWriter

from ding_normmon.core.config import MonitorConfig
from ding_normmon.core.destination import Destination
from ding_normmon.core.record import Record
from ding_normmon.destinations.tensorboard.destination import TensorBoard
from ding_normmon.destinations.tensorboard.event_file import folder_of
from ding_normmon.integrations.ding_engine.announced import announce
from ding_normmon.integrations.ding_engine.run_history import folder_of_run, history_beside
from ding_normmon.integrations.ding_engine.writer import DIEngineWriter
from ding_normmon.runs.history_file import FILE_NAME, HistoryFile

__all__ = ['destinations_of', 'folder_of_learner']

logger = logging.getLogger('ding_normmon')


def destinations_of(
    learner: Any, config: MonitorConfig, configuration: Mapping[str, Any] | None = None
) -> list[Destination]:
    """Return the destinations of a learner's records.

    LightZero's entries give the learner a writer of tensorboardX or of torch, DI-engine's pipelines one of its own.
    Without a usable writer, figures are only in the history file in the experiment's folder.

    Arguments:
        learner: a ``BaseLearner``.
        config: the monitor's.
        configuration: configuration of the whole run, if known.
    """
    writer = learner.tb_logger
    if isinstance(writer, DistributedWriter):
        if configuration is not None:
            announce(writer, configuration=configuration)
        own = DIEngineWriter(writer)
        own.open()
        return [own, history_beside(writer)] if config.history else [own]
    if writer is None and learner.rank > 0:
        return []
    destination: Destination
    try:
        folder = folder_of(writer)
        destination = TensorBoard(writer, configuration)
    except TypeError as error:
        folder = Path(learner.exp_name)
        destination = _NoEventFile(str(error), folder / FILE_NAME if config.history else None)
    history = HistoryFile(folder / FILE_NAME, configuration)
    return [destination, history] if config.history else [destination]


def folder_of_learner(learner: Any) -> Callable[[], Path | None]:
    """Return a function that returns the folder of a learner's history: its writer's, else its experiment's."""
    writer, experiment = learner.tb_logger, Path(learner.exp_name)
    if isinstance(writer, DistributedWriter):
        return folder_of_run(writer)

    def find() -> Path:
        try:
            return experiment if writer is None else folder_of(writer)
        except TypeError:
            return experiment

    return find


class _NoEventFile:
    """Says, once, where the figures are that no event file gets.

    Arguments:
        reason: why there is none.
        history: the history file, or None.
    """

    def __init__(self, reason: str, history: Path | None) -> None:
        self._reason = reason
        self._history = history
        self._said = False

    def publish(self, record: Record) -> None:
        """Say it with the first record."""
        if not self._said:
            self._said = True
            where = 'nowhere; set history=True' if self._history is None else f'in {self._history}'
            logger.warning('monitor: no event file gets the figures (%s); they are %s', self._reason, where)

    def close(self) -> None:
        """Do nothing."""
