"""Finds the task in a figure's name, or puts it there.

The same names come with every record, so results are cached.
"""

from __future__ import annotations

import functools
import re

__all__ = ['ANY_TASK', 'of_all_tasks', 'task_in', 'with_task', 'without_task']

_TASK = re.compile(r'_task(\d+)(?=/|$)')

ANY_TASK = '_task{i}'
"""Placeholder for any task in the names of figures."""



def with_task(name: str, task_id: int | None) -> str:
    """Return what a group, signal or loss is called in figures.

    >>> with_task('head_value', 3), with_task('encoder', None)
    ('head_value_task3', 'encoder')
    """
    return name if task_id is None else f'{name}_task{task_id}'


_MOST = 1 << 18
"""Size of the caches, enough for some thousand tasks."""


@functools.lru_cache(_MOST)
def task_in(name: str) -> int | None:
    """Return the global task id in a figure's name, or None.

    >>> task_in('grad/head_value_task3/_total_norm'), task_in('grad/head_value_all_tasks/mean')
    (3, None)
    """
    match = _TASK.search(name)
    return None if match is None else int(match.group(1))


@functools.lru_cache(_MOST)
def of_all_tasks(name: str) -> str:
    """Return a figure's name with its task replaced by a placeholder.

    >>> of_all_tasks('grad/head_value_task3/_total_norm')
    'grad/head_value_task{i}/_total_norm'
    """
    return _TASK.sub(ANY_TASK, name)


@functools.lru_cache(_MOST)
def without_task(name: str) -> str:
    """Return the name of the same figure over all tasks.

    >>> without_task('logits/value_task3/abs_max')
    'logits/value/abs_max'
    """
    return _TASK.sub('', name)
