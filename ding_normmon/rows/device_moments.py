"""Rows of many tensors at once, made where the tensors are: the number of operations does not grow with the tensors.

On an accelerator every operation is a launch, and a launch takes as long for ten numbers as for ten thousand. So all
signals of all tasks are reduced together, in float64 and in two stages:

1. A tensor is a list of **steps** of equal width. The steps of all tensors become the lines of one table, or of a few
   if their widths differ much, and each line becomes one row. Lines are padded with infinities, which are not counted.
2. The rows of each tensor's steps are put side by side. Rows of invalid steps become empty rows, and all of them are
   merged as :func:`ding_normmon.rows.moments.merge_sets` does it.

Nothing is read on the host and nothing waits for the device.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ding_normmon.rows.chunks import cut
from ding_normmon.rows.moments import COUNT, EMPTY, M2, MAXIMUM, MEAN, MINIMUM, NONFINITE

__all__ = ['Steps', 'moment_rows', 'norm_steps', 'number_rows']

_CHUNK = 1 << 20
"""Numbers that are reduced at a time, about: 8 MiB in float64, and as much again for each of a few intermediates."""

_SLACK = 1 << 16
"""Padding that is always allowed; beyond it, at most as much as there are numbers."""


class Steps(NamedTuple):
    """One tensor as a list of steps.

    Arguments:
        values: shape (S, width), real floating dtype.
        valid: boolean, shape (S,), true where a step is data; None means that all of them are.
    """

    values: Tensor
    valid: Tensor | None = None


@torch.no_grad()
def number_rows(values: Sequence[Tensor]) -> tuple[list[int], Tensor]:
    """Return the row of each of many numbers, in about ten operations.

    Arguments:
        values: tensors of one element on one device, any real dtype; at least one.

    Returns:
        which number each row is of, and the rows, float64, shape (len(values), 6).

    >>> order, rows = number_rows([torch.tensor(3.0), torch.tensor(math.inf)])
    >>> order, rows.tolist()
    ([0, 1], [[1.0, 3.0, 0.0, 3.0, 3.0, 0.0], [0.0, 0.0, 0.0, inf, -inf, 1.0]])
    """
    by_dtype: dict[torch.dtype, list[int]] = {}
    for index, value in enumerate(values):
        by_dtype.setdefault(value.dtype, []).append(index)
    tables = [torch.stack([values[index].reshape(()) for index in indices]) for indices in by_dtype.values()]
    numbers = _joined([table.to(torch.float64) for table in tables])
    bad = (numbers - numbers) != 0
    nonfinite = bad.to(torch.float64)
    known, low, high = (numbers.masked_fill(bad, value) for value in (0.0, math.inf, -math.inf))
    rows = torch.stack([1.0 - nonfinite, known, torch.zeros_like(known), low, high, nonfinite], dim=1)
    return list(itertools.chain.from_iterable(by_dtype.values())), rows


@torch.no_grad()
def norm_steps(vectors: Sequence[Steps], size: int) -> list[Steps]:
    """Return steps of L2 norms, in float64, for steps that consist of vectors.

    Arguments:
        vectors: all of one dtype and on one device; their width is a multiple of ``size``.
        size: entries of a vector.

    >>> steps, = norm_steps([Steps(torch.tensor([[3., 4., 0., 1.]]))], size=2)
    >>> steps.values.tolist()
    [[5.0, 1.0]]
    """
    # In float32 the spread of norms, which can be a thousandth of their size, would lose its digits.
    found = [
        torch.linalg.vector_norm(_joined([piece for _, piece in chunk]), dim=-1, dtype=torch.float64)
        for chunk in _chunks([steps.values.reshape(-1, size) for steps in vectors], max(size, 1))
    ]
    norms = _joined(found)
    shapes = [(len(steps.values), steps.values.shape[1] // size) for steps in vectors]
    parts = norms.split([length * width for length, width in shapes])
    return [
        Steps(part.view(shape), steps.valid) for part, shape, steps in zip(parts, shapes, vectors, strict=True)
    ]


@torch.no_grad()
def moment_rows(parts: Sequence[Steps]) -> Iterator[tuple[list[int], Tensor]]:
    """Yield the rows of the valid entries of many tensors, a few dozen operations for all of them.

    Arguments:
        parts: on one device, with at least one entry each.

    Yields:
        which tensors the rows are of, and the rows, float64, shape (N, 6).

    >>> parts = [Steps(torch.tensor([[1., 2.], [9., 9.]]), torch.tensor([True, False])), Steps(torch.tensor([[5.]]))]
    >>> for indices, rows in moment_rows(parts):
    ...     print(indices, rows.tolist())
    [0, 1] [[2.0, 1.5, 0.5, 1.0, 2.0, 0.0], [1.0, 5.0, 0.0, 5.0, 5.0, 0.0]]
    """
    if not parts:
        return
    empty = _empty_row(parts[0].values.device)
    of_steps = _step_rows(parts)
    lengths = [len(part.values) for part in parts]
    for indices in _similar(lengths, [1] * len(parts)):
        longest = max(lengths[index] for index in indices)
        rows: list[Tensor] = []
        valid: list[Tensor] = []
        for index in indices:
            rows += of_steps[index]
            mask = parts[index].valid
            valid.append(empty.new_ones(1, dtype=torch.bool).expand(lengths[index]) if mask is None else mask)
            if lengths[index] < longest:
                rows.append(empty.expand(longest - lengths[index], 6))
                valid.append(empty.new_zeros(1, dtype=torch.bool).expand(longest - lengths[index]))
        table = torch.where(_joined(valid)[:, None], _joined(rows), empty)
        yield indices, _merged(table.view(len(indices), longest, 6))


def _step_rows(parts: Sequence[Steps]) -> list[list[Tensor]]:
    """Return the rows of the steps of each tensor, as tables one below the other."""
    found: list[list[Tensor]] = [[] for _ in parts]
    widths = [part.values.shape[1] for part in parts]
    for indices in _similar(widths, [len(part.values) for part in parts]):
        widest = widths[indices[0]]
        for chunk in _chunks([parts[index].values for index in indices], widest):
            tables, narrower, start = [], [], 0
            for (width, _), run in itertools.groupby(chunk, lambda piece: (piece[1].shape[1], piece[1].dtype)):
                pieces = [piece for _, piece in run]
                table = _joined(pieces)
                if width < widest:
                    table = torch.nn.functional.pad(table, (0, widest - width), value=math.inf)
                    narrower.append((start, start + len(table), widest - width))
                tables.append(table)
                start += len(table)
            if len({table.dtype for table in tables}) > 1:
                tables = [table.to(torch.float64) for table in tables]
            rows = _rows_of_lines(_joined(tables).to(torch.float64))
            for first, last, filled in narrower:
                rows[first:last, NONFINITE].sub_(filled)
            lengths = [len(piece) for _, piece in chunk]
            for (index, _), of_piece in zip(chunk, rows.split(lengths), strict=True):
                found[indices[index]].append(of_piece)
    return found


def _rows_of_lines(table: Tensor) -> Tensor:
    """Return the row of each line of a float64 table."""
    # NaN where an entry is NaN or infinite, else 0; this norm counts what is not 0.
    distance = table - table
    bad = distance != 0
    nonfinite = torch.linalg.vector_norm(distance, ord=0, dim=1)
    count = table.shape[1] - nonfinite
    known = table.masked_fill(bad, 0.0)
    mean = known.sum(dim=1).div_(count.clamp(min=1.0))
    squares = known.sub_(mean[:, None]).masked_fill_(bad, 0.0).square_().sum(dim=1)
    minimum = known.copy_(table).masked_fill_(bad, math.inf).amin(dim=1)
    maximum = known.masked_fill_(bad, -math.inf).amax(dim=1)
    return torch.stack([count, mean, squares, minimum, maximum, nonfinite], dim=1)


def _merged(rows: Tensor) -> Tensor:
    """Merge rows (sets, length, 6) into (sets, 6), as ``moments.merge_sets`` does it on the host."""
    count, means = rows[..., COUNT], rows[..., MEAN]
    # The sums of mean, minimum and maximum are meaningless and not used.
    total = rows.sum(dim=1)
    weights = count / total[:, COUNT].clamp(min=1.0)[:, None]
    average = (weights * means).sum(dim=1)
    # Twice: the second sum is over distances, so a common offset cancels before rounding.
    average += (weights * (means - average[:, None])).sum(dim=1)
    distance = means - average[:, None]
    squares = total[:, M2] + (count * distance * distance).sum(dim=1)
    minimum, maximum = rows[..., MINIMUM].amin(dim=1), rows[..., MAXIMUM].amax(dim=1)
    return torch.stack([total[:, COUNT], average, squares, minimum, maximum, total[:, NONFINITE]], dim=1)


def _similar(sizes: Sequence[int], amounts: Sequence[int]) -> Iterator[list[int]]:
    """Group tables that may be padded to one size, largest first.

    >>> list(_similar([3, 1 << 20, 2, 1], [5, 1, 5, 5]))
    [[1], [0, 2, 3]]
    """
    group: list[int] = []
    largest = places = numbers = 0
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        if group and largest * (places + amounts[index]) > 2 * (numbers + sizes[index] * amounts[index]) + _SLACK:
            yield group
            group = []
        if not group:
            largest, places, numbers = sizes[index], 0, 0
        group.append(index)
        places += amounts[index]
        numbers += sizes[index] * amounts[index]
    if group:
        yield group


def _chunks(tables: Sequence[Tensor], width: int) -> Iterator[list[tuple[int, Tensor]]]:
    """Cut tables into pieces of lines, and yield as many of them as are reduced at a time, with their table's index."""
    for pieces in cut([len(table) for table in tables], max(1, _CHUNK // width)):
        yield [(index, tables[index][first:last]) for index, first, last in pieces]


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))


@functools.lru_cache(maxsize=16)
def _empty_row(device: torch.device) -> Tensor:
    # Cached, because copying numbers from the host waits for the device.
    with torch.inference_mode(False):
        return torch.from_numpy(EMPTY.copy()).to(device)
