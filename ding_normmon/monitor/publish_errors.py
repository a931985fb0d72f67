"""Mistakes in what a policy publishes: errors in the first measured step, left out and counted later."""

from __future__ import annotations

import contextlib
import operator
import re
from collections.abc import Callable, Collection
from typing import Any, cast

from ding_normmon.core.lost_data import LostData
from ding_normmon.core.step import SignalError
from ding_normmon.metrics import TaskLosses, TensorStatistics
from ding_normmon.metrics.tensor_statistics import NORM_SIGNALS
from ding_normmon.ranks.transport import Transport, TransportError

__all__ = ['PublishErrors', 'plain_task_id']

_NORMS_OF = {family: f'the norms of {name}' for name, (family, _) in NORM_SIGNALS.items() if name != family}
"""Signals whose figures would have the same names as the norms of another signal."""

_OF_A_TASK = re.compile(r'(.+)_task(\d+)$')


def plain_task_id(task_id: Any) -> int | None:
    """Return a NumPy or tensor integer as an int; anything else unchanged, to be refused later."""
    if task_id is not None and type(task_id) is not int:
        with contextlib.suppress(TypeError):
            task_id = operator.index(task_id)
    return cast('int | None', task_id)


class PublishErrors:
    """Checks what is published in a step, and collects the mistakes.

    Arguments:
        has_tasks: whether the policy has several tasks.
        transport: exchanges the mistakes of the first measured step between the ranks.
        lost_data: counts later mistakes.
        timeout: seconds that a rank waits for the others.
        taken: returns the metric that yields a figure of a name, None if none does.
    """

    def __init__(
        self,
        has_tasks: bool,
        transport: Transport,
        lost_data: LostData,
        timeout: float,
        taken: Callable[[str], str | None] = lambda name: None,
    ) -> None:
        self._taken = taken
        self._free: set[tuple[str, str]] = set()
        self._has_tasks = has_tasks
        self._transport = transport
        self._lost = lost_data
        self._timeout = timeout
        self._complaints: list[str] = []
        self._published: set[tuple[str, str, int | None]] = set()
        self._rounds = 0
        self.is_first_step = True

    @property
    def signals(self) -> set[str]:
        """Names of the signals that were published in the current or the last measured step."""
        return {name for kind, name, _ in self._published if kind == 'signal'}

    def begin_step(self) -> None:
        """Forget what was published in the last step."""
        self._published.clear()

    def end_step(self) -> None:
        """Count the mistakes after the forward pass; from the next step on, all mistakes are left out and counted."""
        self.is_first_step = False
        for complaint in self._complaints:
            self._lost.count('mistake', f'{complaint}; left out')
        self._complaints.clear()

    def accept(
        self, name: Any, task_id: int | None, kind: str, task_ids: Collection[int], again: bool = False
    ) -> bool:
        """Return whether something may be published, and remember it.

        Arguments:
            name: name of the signal or loss.
            task_id: as the policy gave it.
            kind: ``'signal'`` or ``'loss'``.
            task_ids: the tasks that this rank trains.
            again: whether it may be published several times in a step, and is measured as one signal.
        """
        if not isinstance(name, str):
            self.complain(f'{name!r}: the name of a {kind} is text, got {type(name).__name__}')
            return False
        entry = (kind, name, task_id)
        if task_id is None and '_task' in name and (found := _OF_A_TASK.match(name)):
            # Its figures would have the names of that task's figures.
            entry = (kind, found[1], int(found[2]))
        elif task_id is not None and (not isinstance(task_id, int) or task_id not in task_ids):
            trained = f'this rank trains {list(task_ids)}' if self._has_tasks else 'this policy has a single task'
            self.complain(f'{name}: unknown task id {task_id!r}; {trained}')
            return False
        if entry in self._published and not again:
            self.complain(
                f'{name}: published twice for task {task_id} in one learner step; where gradients are accumulated over '
                f'several forward passes, publish in one of them'
            )
            return False
        if (kind, name) not in self._free and not self._is_free(name, kind):
            return False
        self._published.add(entry)
        return True

    def _is_free(self, name: str, kind: str) -> bool:
        """Return whether no metric yields figures of these names."""
        if kind == 'loss':
            owner = self._taken(name)
            owner = None if owner == TaskLosses.name else owner
        else:
            owner = self._taken(f'{name}/mean')
            owner = _NORMS_OF.get(name) if owner == TensorStatistics.name else owner
        if owner is not None:
            self._lost.count(
                'name_taken',
                f'figures of the published {kind} {name} would have names of {owner}, whose figures stay; what was '
                f'published is left out. Publish it under another name',
                about=name,
            )
            return False
        self._free.add((kind, name))
        return True

    def complain(self, complaint: str) -> None:
        """Collect or count a mistake."""
        if self.is_first_step:
            self._complaints.append(complaint)
        else:
            self._lost.count('mistake', f'{complaint}; left out')

    def refuse(self) -> None:
        """Raise on every rank if any rank has made a mistake; every rank calls it in its first measured step.

        Raises:
            SignalError: the message names the rank, if there are several, and the signal.
        """
        statement = {'mistakes': self._complaints}
        # A loop that catches the error has another first step; its answers must not be mixed up with these.
        self._rounds += 1
        try:
            statements = self._transport.agree(f'first_step/{self._rounds}', statement, self._timeout)
        except TransportError as error:
            self._lost.count('agreement', str(error))
            statements = [statement]
        found = [
            f'rank {rank}: {mistake}' if len(statements) > 1 else mistake
            for rank, said in enumerate(statements)
            for mistake in said['mistakes']
        ]
        self._complaints = []
        if found:
            raise SignalError('monitor: ' + '; '.join(found))
