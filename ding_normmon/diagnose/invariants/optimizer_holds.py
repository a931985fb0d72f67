"""Optimizer and model do not belong together."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.diagnose.invariants.invariant import Invariant, broken
from ding_normmon.diagnose.rule import Sign
from ding_normmon.diagnose.window import Window

__all__ = ['OrphanedParameter', 'UnheldParameter', 'signs_by_owner']

_OF_A_TASK = re.compile(r'(.+)_task(\d+)')


def signs_by_owner(window: Window, what: str, verb: str) -> Iterable[Sign]:
    """Yield one sign for each task, and one for the shared groups, that has parameters in ``broken/{what}``.

    Arguments:
        window: the run.
        what: the figures' second part.
        verb: what the sentence says of the parameters.
    """
    owners: dict[int | None, dict[str, float]] = {}
    for group, count in broken(window, what).items():
        found = _OF_A_TASK.fullmatch(group)
        owners.setdefault(int(found[2]) if found else None, {})[group] = count
    for task_id, groups in owners.items():
        notes = window.record.notes
        names = []
        for group, count in groups.items():
            which = notes.get(f'broken/{what}/{group}', f'{count:g} parameters')
            short = group if task_id is None else group.removesuffix(f'_task{task_id}')
            names.append(f'{short} ({which})')
        whose = '' if task_id is None else f'{window.call(task_id)}: '
        listed = ', '.join(names[:4]) + (f' and {len(names) - 4} more groups' if len(names) > 4 else '')
        yield Sign(
            f'{whose}{listed} {verb}',
            tasks=() if task_id is None else (task_id,),
            group=next(iter(groups)) if len(groups) == 1 and task_id is None else None,
            evidence={f'broken/{what}/{group}': count for group, count in groups.items()},
        )


@dataclass
class UnheldParameter(Invariant):
    """A parameter has a gradient, and no optimizer holds it: it is not trained.

    What never gets a gradient, such as a frozen target network or a head that nobody uses, is left alone.
    """

    name: ClassVar[str] = 'unheld_parameter'
    advice: ClassVar[str] = (
        'Build the optimizer from the parameters that the model has now, or add them with add_param_group; set '
        'requires_grad=False on what is not to be trained.'
    )
    reads: ClassVar[tuple[str, ...]] = ('learning_rate/',)

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task, and one for shared groups."""
        return signs_by_owner(window, 'unheld', 'has a gradient, but no optimizer holds it, and it does not move.')


@dataclass
class OrphanedParameter(Invariant):
    """An optimizer still holds what was trained as a part of the model and is none any more."""

    name: ClassVar[str] = 'orphaned_parameter'
    advice: ClassVar[str] = (
        'The optimizer was built before modules were made anew or loaded with assign=True. Build it after that, or '
        'replace the parameters in its param_groups.'
    )
    reads: ClassVar[tuple[str, ...]] = ('learning_rate/',)

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task, and one for shared groups."""
        return signs_by_owner(window, 'orphaned', 'is held by the optimizer, but no longer a part of the model.')
