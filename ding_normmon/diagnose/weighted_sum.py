"""What a total is made of: a factor for each part and each task, learnt from a run, and which of them has changed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

__all__ = ['Change', 'WeightedSum']

Values = npt.NDArray[np.float64]
Parts = Mapping[tuple[str, int | None], float]

_KEPT = 64
"""Records from which the factors are learnt; after as many that they do not explain, they are learnt anew."""

_TESTED = 3
"""Records that the factors must foretell before they are believed."""

_EXACT, _LEAST, _LOOSE = 0.01, 0.002, 5.0
"""Relative error up to which a record is foretold, at first; the least error that is a change; and the factor on the
errors so far above which one is."""

_RANK, _SAME = 1e-6, 1e-3
_ROUNDS = 8

_SHOWN = 12
"""Newest unexplained records that tell what has changed."""

_TELLING = 4
"""Records that it takes to tell who has changed."""

_STEADY, _CLEARLY = 0.1, 0.06
"""A factor is steady if it varies by less than this; and one owner is told from the others if its factor varies so much
less, times the number of records beyond three: in few records many factors look steady by chance."""

_FEW_TASKS = 8
"""Of more tasks only single ones are told."""

_SOONER = 0.25
"""The factors are learnt again when there are so many more records."""


@dataclass(frozen=True)
class Change:
    """What counts for more or less than it did.

    Arguments:
        part: name of the part; empty for all parts.
        tasks: global task ids; empty for all tasks.
        factor: how many times as much it counts now, by the newest record.
        is_clear: whether nothing else explains the newest records nearly as well.
    """

    part: str
    tasks: tuple[int, ...]
    factor: float
    is_clear: bool


class WeightedSum:
    """Learns the factors that make a total out of its parts, and notices when they no longer do.

    The total is taken for

    .. math:: y = \\sum_t u_t \\sum_k w_k x_{kt}

    with a factor for each part k and each task t. Nothing is said unless this has foretold some records.

    Attributes:
        unexplained: number of records in a row that the factors do not explain.
        expected: what the factors make of the newest record's parts; NaN while they are not known.

    Example:
        >>> total, chance = WeightedSum(), np.random.default_rng(0)
        >>> for number in range(20):
        ...     parts = {(part, task): float(chance.uniform(1, 2)) for part in ('value', 'policy') for task in (0, 1)}
        ...     weight = 5.0 if number >= 15 else 0.5
        ...     total.add(sum((weight if part == 'value' else 1.0) * x for (part, _), x in parts.items()), parts)
        >>> change = total.change()
        >>> total.unexplained, change.part, change.tasks, round(change.factor, 2)
        (5, 'value', (), 10.0)
    """

    def __init__(self) -> None:
        self._keys: tuple[tuple[str, int | None], ...] = ()
        self._forget()

    def _forget(self) -> None:
        self._rows: deque[tuple[Values, float]] = deque(maxlen=_KEPT)
        self._broken: deque[tuple[Values, float]] = deque(maxlen=_SHOWN)
        self._factors: tuple[Values, Values] | None = None
        self._tolerance = _LOOSE * _EXACT
        self._with_tasks = False
        self._errors: list[float] = []
        self.unexplained = 0
        self.expected = math.nan

    def add(self, total: float, parts: Parts) -> None:
        """Add one record.

        Arguments:
            total: not 0.
            parts: by name of the part and global task id, always in the same order; a task that joins or leaves begins
                a new sum.
        """
        keys = tuple(parts)
        if keys != self._keys:
            self._keys = keys
            self._names = sorted({part for part, _ in keys}, key=lambda name: (len(name), name))
            self._tasks = sorted({task for _, task in keys}, key=lambda task: -1 if task is None else task)
            rows = [self._names.index(part) for part, _ in keys]
            self._places = np.array(rows), np.array([self._tasks.index(task) for _, task in keys])
            self._forget()
        values = np.zeros((len(self._names), len(self._tasks)))
        values[self._places] = list(parts.values())
        row = values, total
        if self._factors is None:
            self._rows.append(row)
            self._learn()
            return
        self.expected = _foretold(self._factors, values)
        error = _error(self._factors, row)
        if error > self._tolerance and not self.unexplained:
            # Factors that a few records have told only roughly may be told better now.
            better, _ = _fitted([*self._rows, row], self._with_tasks)
            worst = max(_error(better, each) for each in [*self._rows, row])
            if worst <= self._tolerance:
                self._factors, error = better, worst
        if error <= self._tolerance:
            self._rows.append(row)
            self._broken.clear()
            self.unexplained = 0
            self._errors.append(error)
            if len(self._errors) > _SOONER * len(self._rows):
                self._believe(list(self._rows))
            return
        self._broken.append(row)
        self.unexplained += 1
        if self.unexplained >= _KEPT:
            self._forget()

    def _learn(self) -> None:
        rows = list(self._rows)
        for with_tasks in (False, True)[: len(self._tasks)]:
            if len(rows) <= _TESTED + 1:
                return
            factors, needed = _fitted(rows[:-_TESTED], with_tasks)
            if len(rows) - _TESTED < needed:
                return
            errors = [_error(factors, row) for row in rows[-_TESTED:]]
            if max(errors) <= _EXACT:
                self._with_tasks, self._errors = with_tasks, errors
                self._believe(rows)
                return

    def _believe(self, rows: list[tuple[Values, float]]) -> None:
        """Learn the factors from records; those since the last time tell how exact they are."""
        self._factors, _ = _fitted(rows, self._with_tasks)
        self._tolerance = min(self._tolerance, max(_LEAST, _LOOSE * max(self._errors)))
        self._errors = []

    def _unexplained(self) -> tuple[Values, Values]:
        """Return what parts and tasks should make of the unexplained records, and what these have more than that."""
        assert self._factors is not None
        of_parts, of_tasks = self._factors
        shares = np.array([of_parts[:, None] * values * of_tasks for values, _ in self._broken])
        return shares, np.array([total for _, total in self._broken]) - shares.sum(axis=(1, 2))

    def followed(self, change: Change) -> Change:
        """Return a change that was found with its factor in the newest record."""
        shares, missing = self._unexplained()
        columns = [c for c, task in enumerate(self._tasks) if task in change.tasks or not change.tasks]
        rows = [row for row, name in enumerate(self._names) if name == change.part or not change.part]
        return replace(change, factor=float(1 + missing[-1] / shares[-1][np.ix_(rows, columns)].sum()))

    def change(self) -> Change | None:
        """Return what explains the newest records; None where they need no explanation, or too few do."""
        if self._factors is None or len(self._broken) < _TELLING:
            return None
        shares, missing = self._unexplained()
        if np.sign(missing).min() != np.sign(missing).max():
            return None
        best: dict[tuple[int, ...], tuple[float, str, float]] = {}
        for tasks, columns in self._owners():
            of_owner = shares[:, :, columns].sum(axis=2)
            for part, share in [('', of_owner.sum(axis=1)), *zip(self._names, of_owner.T, strict=True)]:
                if len(tasks) > 1 and part:
                    continue
                if not (share > 0).all():
                    continue
                found = _unevenness(missing / share), part, float(1 + missing[-1] / share[-1])
                # All parts come first; one of them has to explain it clearly better.
                if tasks not in best or found[0] < (best[tasks][0] if best[tasks][1] else best[tasks][0] / 2):
                    best[tasks] = found
        if not best:
            return None
        owner = min(best, key=lambda tasks: best[tasks][0])
        unevenness, part, factor = best[owner]
        others = min((found for tasks, (found, *_) in best.items() if tasks != owner), default=math.inf)
        is_clear = unevenness < min(_CLEARLY * (len(self._broken) - 3) * others, _STEADY)
        return Change(part, owner, factor, is_clear)

    def _owners(self) -> Iterator[tuple[tuple[int, ...], slice]]:
        """Yield whose losses may have changed: everybody's, one task's, or those of neighbours, as a rank has them."""
        yield (), slice(None)
        count = len(self._tasks)
        longest = count - 1 if count <= _FEW_TASKS else 1
        for length in range(1, longest + 1 if count > 1 else 1):
            for first in range(count - length + 1):
                tasks = self._tasks[first : first + length]
                yield tuple(task for task in tasks if task is not None), slice(first, first + length)


def _fitted(rows: list[tuple[Values, float]], with_tasks: bool) -> tuple[tuple[Values, Values], int]:
    """Return the factors of parts and tasks that explain records best, and how many records it takes to tell them."""
    values, totals = np.array([row for row, _ in rows]), np.array([total for _, total in rows])
    of_tasks = np.ones(values.shape[2])
    of_parts, needed = _solved(values @ of_tasks, totals)
    if not with_tasks:
        return (of_parts, of_tasks), needed
    for _ in range(_ROUNDS):
        of_tasks, more = _solved(np.einsum('nkt,k->nt', values, of_parts), totals)
        of_parts, needed = _solved(values @ of_tasks, totals)
    return (of_parts, of_tasks), needed + more


def _solved(columns: Values, totals: Values) -> tuple[Values, int]:
    """Return factors with the least relative error, and their number; what is the same as another part has none."""
    relative = columns / totals[:, None]
    for column in range(1, columns.shape[1]):
        if np.isclose(relative[:, :column], relative[:, column, None], _SAME, 0).all(axis=0).any():
            relative[:, column] = 0.0
    sizes = np.sqrt((relative**2).mean(axis=0))
    sizes[sizes == 0] = 1.0
    factors, _, rank, _ = np.linalg.lstsq(relative / sizes, np.ones(len(totals)), rcond=_RANK)
    return factors / sizes, int(rank)


def _foretold(factors: tuple[Values, Values], values: Values) -> float:
    return float(factors[0] @ values @ factors[1])


def _error(factors: tuple[Values, Values], row: tuple[Values, float]) -> float:
    expected = _foretold(factors, row[0])
    return abs(row[1] - expected) / max(abs(row[1]), abs(expected), 1e-300)


def _unevenness(added: Values) -> float:
    """Return how far a factor is from being steady, or growing steadily, by what it adds to 1 in each record."""
    steadiness = [_scatter(np.log(np.abs(added)))]
    if (added > -1).all():
        logs = np.log1p(added)
        steadiness.append(_scatter(logs) / max(abs(float(logs.mean())), 1e-12))
    return min(steadiness)


def _scatter(values: Values) -> float:
    """Return the standard deviation about a straight line."""
    steps = np.arange(len(values))
    apart = values - np.polyval(np.polyfit(steps, values, 1), steps)
    return float(np.sqrt((apart**2).sum() / (len(values) - 2)))
