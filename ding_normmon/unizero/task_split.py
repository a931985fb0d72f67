"""Which rank trains which tasks."""

from __future__ import annotations

__all__ = ['split_tasks']


def split_tasks(number_of_tasks: int, number_of_ranks: int) -> list[list[int]]:
    """Split tasks over ranks as evenly as possible; neighbours stay together.

    Arguments:
        number_of_tasks: how many tasks there are in the whole run.
        number_of_ranks: how many processes train them.

    Returns:
        the global task ids of each rank; sizes differ by at most one, and with more ranks than tasks some are empty.

    Raises:
        ValueError: a number is below 1.

    Example:
        >>> split_tasks(5, 2)
        [[0, 1, 2], [3, 4]]
        >>> split_tasks(2, 3)
        [[0], [1], []]
    """
    if number_of_tasks < 1 or number_of_ranks < 1:
        raise ValueError(f'need at least one task and one rank, got {number_of_tasks} and {number_of_ranks}')
    share, remainder = divmod(number_of_tasks, number_of_ranks)
    split = []
    start = 0
    for rank in range(number_of_ranks):
        end = start + share + (rank < remainder)
        split.append(list(range(start, end)))
        start = end
    return split
