"""Everything in an event file beside the figures: chart layout, task names, findings and configuration."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from tensorboardX.proto.summary_pb2 import Summary

from ding_normmon.core.destination import RunDescription
from ding_normmon.core.figures import Figures
from ding_normmon.core.finding import Finding
from ding_normmon.core.metric_names import of_all_tasks, task_in
from ding_normmon.core.record import Record
from ding_normmon.destinations.tensorboard.charts import arrange
from ding_normmon.destinations.tensorboard.hparams import hparams_values
from ding_normmon.destinations.tensorboard.layout import layout_value
from ding_normmon.destinations.tensorboard.texts import findings_text, tasks_text, text_value

__all__ = ['Dashboard']

logger = logging.getLogger('ding_normmon')

_MOST_LAYOUTS = 100
"""Per run: figures that appear after this many layouts get no chart of their own; *Scalars* still shows them."""

_ROW = ('norm/model/_total_norm', 'grad/model/_total_norm')
"""Figures shown next to the configuration in the table of runs."""


class Dashboard:
    """Makes the summaries that a record's event carries in addition to the record's figures.

    The layout is written with the first record, and again when a record has figures without a chart. Tasks and
    configuration are written once, findings with the record in which they were raised or cleared.

    Arguments:
        configuration: nested configuration of the run; by default the monitor's own.
        written_elsewhere: returns the names that others write to the same file; they get charts too.

    Example:
        >>> dashboard = Dashboard()
        >>> dashboard.begin(RunDescription({0: 'Pong', 1: 'Boxing'}))
        >>> names = [f'grad/head_value_task{task}/_total_norm' for task in (0, 1)]
        >>> [value.tag for value in dashboard.values(Record(0, dict.fromkeys(names, 1.0)), names)]
        ['custom_scalars__config__', 'tasks', '_hparams_/experiment', '_hparams_/session_start_info']
        >>> dashboard.values(Record(5, dict.fromkeys(names, 2.0)), names)
        []
    """

    def __init__(
        self,
        configuration: Mapping[str, Any] | None = None,
        written_elsewhere: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._configuration = configuration
        self._written_elsewhere = written_elsewhere
        self._description = RunDescription()
        self._started = time.time()
        self._names: set[str] = set()
        self._known: set[str] = set()
        self._charted: set[str | int | None] = set()
        self._layouts = 0
        self._findings: dict[Any, Finding] = {}
        self._failed: set[str] = set()

    def begin(self, description: RunDescription, configuration: Mapping[str, Any] | None = None) -> None:
        """Set the tasks' names, the monitor's configuration and, if given, the run's configuration."""
        self._description = description
        if configuration is not None:
            self._configuration = configuration

    @property
    def figures(self) -> Figures:
        """What is declared of the figures."""
        return self._description.figures

    def values(self, record: Record, shown: Collection[str]) -> list[Summary.Value]:
        """Return the summaries to write with a record.

        A summary that cannot be made is logged once and left out, so that the record's figures are written anyway.

        Arguments:
            record: the record.
            shown: names of its figures that are written.
        """
        first = not self._charted
        parts: list[tuple[str, Callable[[], list[Summary.Value]]]] = [('layout', lambda: self._layout(shown))]
        if first:
            parts += [('tasks', self._tasks), ('configuration', self._hparams)]
        if record.findings:
            parts.append(('findings', lambda: self._texts(record)))
        values = []
        for name, make in parts:
            try:
                values += make()
            except Exception as error:
                if name not in self._failed:
                    self._failed.add(name)
                    logger.warning(
                        'monitor: no %s in TensorBoard (%s: %s); logged once', name, type(error).__name__, error
                    )
        return values

    def _layout(self, shown: Collection[str]) -> list[Summary.Value]:
        if self._known.issuperset(shown):
            return []
        # Charts hold all tasks, so the layout changes only with a new kind of figure or a new task.
        self._known.update(shown)
        kinds = {kind for name in shown for kind in (of_all_tasks(name), task_in(name))}
        if kinds <= self._charted or self._layouts >= _MOST_LAYOUTS:
            return []
        self._charted |= kinds
        self._layouts += 1
        self._names.update(shown)
        names = self._names | set(self._written_elsewhere())
        return [layout_value(arrange(names, self._description.tasks, self._description.figures))]

    def _tasks(self) -> list[Summary.Value]:
        tasks = self._description.tasks
        return [text_value('tasks', tasks_text(tasks))] if tasks else []

    def _hparams(self) -> list[Summary.Value]:
        configuration = self._configuration
        if configuration is None:
            configuration = {'monitor': self._description.configuration}
        returns = sorted(name for name in self._written_elsewhere() if name.startswith('eval/'))
        return hparams_values(configuration, [*returns, *_ROW], self._started)

    def _texts(self, record: Record) -> list[Summary.Value]:
        for finding in record.findings:
            if finding.is_active:
                self._findings[finding.key] = finding
            else:
                self._findings.pop(finding.key, None)
        return [text_value('findings', findings_text(record.iteration, record.findings, self._findings.values()))]
