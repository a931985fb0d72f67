"""Records in Weights & Biases, online or offline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ding_normmon.core.destination import RunDescription
from ding_normmon.core.finding import tell
from ding_normmon.core.record import Record
from ding_normmon.destinations.selection import for_dashboard

__all__ = ['WandB']


class WandB:
    """A destination that logs to a Weights & Biases run under the same names, against the learner iteration.

    A record comes some steps after the iteration that it is of, and other code logs to the same run at its own steps.
    So a record is a row that has no step of wandb's, and moves none: whoever calls ``run.log(..., step=i)`` loses no
    point. The iteration is logged beside the figures, and every family of them has it as its horizontal axis.

    Arguments:
        run: the run; by default the one that is active at the first record (DI-engine's ``wandb_online_logger`` starts
            one), else a new one.
        init: arguments of ``wandb.init`` for a new run, such as ``project='unizero'``, ``mode='offline'``.

    Raises:
        ImportError: wandb is not installed.
    """

    def __init__(self, run: Any = None, **init: Any) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ImportError('the destination WandB needs the package wandb: pip install wandb') from error
        self._wandb: Any = wandb
        self._run = run
        self._init = init
        self._is_mine = False
        self._families: set[str] = set()
        self._description = RunDescription()

    def begin(self, description: RunDescription) -> None:
        """Add the tasks' names and the monitor's configuration to the run's configuration."""
        self._description = description

    def publish(self, record: Record) -> None:
        """Log the record's scalars, and its findings as alerts."""
        if self._run is None:
            self._run = self._wandb.run
            self._is_mine = self._run is None
            if self._run is None:
                # A resumed run is a new one of the same group: what is abandoned cannot be taken back there.
                group = {'group': self._description.run} if self._description.run else {}
                self._run = self._wandb.init(**{**group, **self._init})
        if not self._families:
            self._run.define_metric('monitor_iteration', hidden=True)
            tasks = {str(task_id): name for task_id, name in self._description.tasks.items()}
            known: Mapping[str, Any] = {'monitor': dict(self._description.configuration), 'monitor_tasks': tasks}
            self._run.config.update(known, allow_val_change=True)
        shown = for_dashboard(record.scalars, self._description.figures)
        for family in {name.partition('/')[0] for name in shown} - self._families:
            self._families.add(family)
            pattern = f'{family}/*' if any(name.startswith(f'{family}/') for name in shown) else family
            self._run.define_metric(pattern, step_metric='monitor_iteration')
        self._add_row({**shown, 'monitor_iteration': record.iteration})
        for finding in record.findings:
            level = {'info': 'INFO', 'warning': 'WARN', 'error': 'ERROR'}[finding.severity]
            title = f'{finding.rule}: {"cleared" if finding.cleared is not None else finding.severity}'
            self._run.alert(title=title, text=tell(finding), level=self._wandb.AlertLevel[level])

    def _add_row(self, row: dict[str, Any]) -> None:
        if self._run.disabled:
            return
        # `run.log` moves the run's step on, and then drops what is logged at an earlier one. This is how wandb itself
        # adds the rows of an event file.
        interface = getattr(getattr(self._run, '_backend', None), 'interface', None)
        interface = getattr(self._run, '_interface', None) if interface is None else interface
        if interface is None:
            raise RuntimeError(
                f'wandb {self._wandb.__version__} has no known way to add a row beside those of run.log; versions 0.19 '
                f'to 0.31 have'
            )
        interface.publish_history(run=self._run, data={**row, '_step': self._run.step}, publish_step=False)
        self._run.summary.update(row)

    def close(self) -> None:
        """Finish the run if this destination started it."""
        if self._is_mine and self._run is not None:
            self._run.finish(quiet=True)
