"""Optimizer and model do not belong together."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.diagnose.invariants.invariant import Invariant, broken
from ding_normmon.diagnose.rule import Sign, Words
from ding_normmon.diagnose.window import Window

__all__ = ['OrphanedParameter', 'UnheldParameter', 'signs_by_owner', 'words_of_owners']

_OF_A_TASK = re.compile(r'(.+)_task(\d+)')


def words_of_owners(english: str, chinese: str, advice: str) -> Words:
    """Return the sentences of what is true of some parameters, with the Chinese advice."""
    return {
        'en': {'task': f'{{task}}: {{listed}} {english}', 'shared': f'{{listed}} {english}'},
        'zh': {'task': f'{{task}}：{{listed}} {chinese}', 'shared': f'{{listed}} {chinese}', 'advice': advice},
    }


def signs_by_owner(window: Window, what: str) -> Iterable[Sign]:
    """Yield one sign for each task, and one for the shared groups, that has parameters in ``broken/{what}``.

    Arguments:
        window: the run.
        what: the figures' second part.
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
        listed = ', '.join(names[:4]) + (f', +{len(names) - 4}' if len(names) > 4 else '')
        yield Sign(
            'shared' if task_id is None else 'task',
            tasks=() if task_id is None else (task_id,),
            group=next(iter(groups)) if len(groups) == 1 and task_id is None else None,
            evidence={f'broken/{what}/{group}': count for group, count in groups.items()},
            values={'listed': listed},
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
    words: ClassVar[Words] = words_of_owners(
        'has a gradient, but no optimizer holds it, and it does not move.',
        '有梯度，但没有优化器持有它，因此不会更新。',
        '用模型现有的参数重新构建优化器，或用 add_param_group 添加；不需要训练的参数设 requires_grad=False。',
    )
    reads: ClassVar[tuple[str, ...]] = ('learning_rate/',)

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task, and one for shared groups."""
        return signs_by_owner(window, 'unheld')


@dataclass
class OrphanedParameter(Invariant):
    """An optimizer still holds what was trained as a part of the model and is none any more."""

    name: ClassVar[str] = 'orphaned_parameter'
    advice: ClassVar[str] = (
        'The optimizer was built before modules were made anew or loaded with assign=True. Build it after that, or '
        'replace the parameters in its param_groups.'
    )
    words: ClassVar[Words] = words_of_owners(
        'is held by the optimizer, but no longer a part of the model.',
        '仍被优化器持有，但已不再属于模型。',
        '优化器是在模块重建或以 assign=True 加载之前构建的。请在其后构建，或替换其 param_groups 中的参数。',
    )
    reads: ClassVar[tuple[str, ...]] = ('learning_rate/',)

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign per task, and one for shared groups."""
        return signs_by_owner(window, 'orphaned')
