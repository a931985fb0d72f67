"""What is known of an exception that leaves a learner step: in which task's forward pass it arose, and through what."""

from __future__ import annotations

__all__ = ['blame_task', 'task_at_fault']

_ATTRIBUTE = 'ding_normmon_task_at_fault'


def blame_task(error: BaseException, task_id: int, name: str, at_fault: bool) -> None:
    """Note the task in whose forward pass an exception arose.

    Arguments:
        error: the exception; it gets a note (PEP 678).
        task_id: global task id.
        name: the task's name.
        at_fault: whether the task's own data is broken, so that it cannot have come from another task.

    Example:
        >>> error = ValueError('NaN')
        >>> blame_task(error, 2, 'Pong', at_fault=True)
        >>> task_at_fault(error), error.__notes__
        (2, ['in the forward pass of task 2 (Pong)'])
    """
    # As `add_note` does, which Python 3.10 does not have.
    vars(error).setdefault('__notes__', []).append(f'in the forward pass of task {task_id} ({name})')
    if at_fault:
        vars(error)[_ATTRIBUTE] = task_id


def task_at_fault(error: BaseException) -> int | None:
    """Return the global id of the task whose data is at fault; None if that is not known."""
    return vars(error).get(_ATTRIBUTE)
