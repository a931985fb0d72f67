r"""From sketches and exact norms of gradients to cosines, their standard errors and the figures of a group of tasks.

Both norms of a pair are known exactly, and that tells more about their inner product than the sketches alone. The
maximum-likelihood estimate of a cosine :math:`c` from sketches :math:`u, v` of vectors of norm 1 solves

.. math:: c^3 - c^2\,u{\cdot}v + c\,(\|u\|^2 + \|v\|^2 - 1) - u{\cdot}v = 0, \qquad
          \sigma(c) = \frac{1 - c^2}{\sqrt{(1 + c^2)\,k}}

(Li, Hastie & Church, "Improving random projections using marginal information", COLT 2006, lemma 2). Where a count
sketch takes the place of a normal projection, :math:`1/k` is the probability of a collision and :math:`\sigma` an upper
bound, since a count sketch lacks the terms of equal entries. Equal vectors give exactly 1, opposite ones -1, and of two
unrelated ones the error is :math:`1/\sqrt k`: 0.016 for 4,096 buckets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ding_normmon.rows.table import Vector

__all__ = ['TaskGeometry', 'cosine_of', 'cosines', 'geometry_of', 'standard_error']

_Array = npt.NDArray[np.float64]

ROUNDING = 1e-6
"""What rounding of float32 gradients may add to a cosine; the smallest standard error that is stated."""


def cosine_of(products: _Array, first: _Array, second: _Array) -> _Array:
    """Return the maximum-likelihood cosines of pairs.

    Arguments:
        products: inner products of two sketches, each divided by the exact norm of what it is a sketch of.
        first: squared norms of the first sketches, divided likewise.
        second: of the second ones.

    >>> cosine_of(np.array([0.98, -1.1, 0.0]), np.array([0.98, 1.1, 1.0]), np.array([0.98, 1.1, 1.0])).tolist()
    [1.0, -1.0, 0.0]
    """
    low, high = -np.ones_like(products), np.ones_like(products)
    # The cubic is >= 0 at 1 and <= 0 at -1 (it is the squared length of the difference and of the sum there).
    for _ in range(60):
        middle = (low + high) / 2
        value = ((middle - products) * middle + first + second - 1) * middle - products
        above = value > 0
        high, low = np.where(above, middle, high), np.where(above, low, middle)
    result = (low + high) / 2
    result = np.where(first + second - 2 * products <= 1e-12, 1.0, result)
    result = np.where(first + second + 2 * products <= 1e-12, -1.0, result)
    return np.where(products == 0, np.where(first + second >= 1, 0.0, result), result)


def standard_error(cosine: _Array, collision: float) -> _Array:
    """Return the standard errors of cosines; never below what rounding may do.

    >>> standard_error(np.array([0.0, 1.0]), collision=1 / 4096).tolist()
    [0.015625, 1e-06]
    """
    return np.maximum((1 - cosine**2) / np.sqrt(1 + cosine**2) * math.sqrt(collision), ROUNDING)


def cosines(sketches: _Array, norms: _Array, collision: float) -> tuple[_Array, _Array]:
    """Return the T x T matrix of cosines and that of their standard errors.

    Arguments:
        sketches: (T, k).
        norms: (T,), the exact norms, none of them 0.
        collision: probability of a collision; 0 if the sketches are the vectors themselves.
    """
    unit = sketches / norms[:, None]
    products: _Array = np.matmul(unit, unit.T)
    squares: _Array = np.diag(products).copy()
    cosine: _Array = np.clip(products, -1.0, 1.0)
    if collision:
        cosine = cosine_of(products, squares[:, None], squares[None, :])
    np.fill_diagonal(cosine, 1.0)
    error = standard_error(cosine, collision)
    np.fill_diagonal(error, 0.0)
    return cosine, error


@dataclass(frozen=True)
class TaskGeometry:
    """How the gradients of several tasks stand to each other in one group of parameters.

    Arguments:
        tasks: global ids of the tasks that have a gradient which is not zero, ascending.
        norms: exact norms of all tasks with a gradient, zero ones too, by task id.
        cosine: of ``tasks``, 1 on the diagonal.
        error: standard errors, 0 on the diagonal.
    """

    tasks: tuple[int, ...]
    norms: Mapping[int, float]
    cosine: _Array
    error: _Array

    @property
    def gram(self) -> _Array:
        """Inner products: exact squared norms on the diagonal, estimates off it."""
        norms = np.array([self.norms[task] for task in self.tasks])
        gram: _Array = self.cosine * np.outer(norms, norms)
        return gram

    def figures(self) -> dict[str, float]:
        """Return rate, min_cosine, mean_cosine, standard_error, imbalance, effective_tasks and sum_norm.

        A pair conflicts if its cosine is below -2 standard errors (a negative cosine is Yu et al.'s definition, PCGrad,
        NeurIPS 2020). ``imbalance`` is the largest norm over the smallest that is not 0; ``effective_tasks`` the
        inverse of the sum of squared shares of the norms, from 1 (one task dominates) to their number (all alike).
        """
        figures: dict[str, float] = {}
        pairs = np.triu_indices(len(self.tasks), 1)
        if len(pairs[0]):
            cosine, error = self.cosine[pairs], self.error[pairs]
            figures['rate'] = float(np.mean(cosine < -2 * error))
            figures['min_cosine'] = float(cosine.min())
            figures['mean_cosine'] = float(cosine.mean())
            figures['standard_error'] = float(error.max())
            figures['sum_norm'] = math.sqrt(max(0.0, float(self.gram.sum())))
        norms = np.array([norm for norm in self.norms.values() if norm > 0])
        if len(norms) and len(self.norms) > 1:
            figures['imbalance'] = float(norms.max() / norms.min())
            figures['effective_tasks'] = float(1 / np.sum((norms / norms.sum()) ** 2))
        return figures

    def of_task(self, task: int) -> dict[str, float]:
        """Return share (of the sum of the norms) and mean_cosine (with the other tasks) of one task."""
        figures: dict[str, float] = {}
        total = sum(self.norms.values())
        if total > 0 and len(self.norms) > 1:
            figures['share'] = self.norms[task] / total
        if task in self.tasks and len(self.tasks) > 1:
            row = self.cosine[self.tasks.index(task)]
            figures['mean_cosine'] = float((row.sum() - 1) / (len(self.tasks) - 1))
        return figures

    def worst(self) -> tuple[int, int, float, float] | None:
        """Return the pair with the smallest cosine: both task ids, cosine, standard error; None for fewer than two."""
        if len(self.tasks) < 2:
            return None
        upper = np.where(np.triu(np.ones_like(self.cosine, dtype=bool), 1), self.cosine, np.inf)
        i, j = np.unravel_index(int(upper.argmin()), upper.shape)
        return self.tasks[i], self.tasks[j], float(self.cosine[i, j]), float(self.error[i, j])


def geometry_of(
    sketches: Mapping[Any, Vector],
    squares: Mapping[int, float],
    collision: float,
    exact: Mapping[tuple[int, int], float] | None = None,
) -> TaskGeometry:
    """Return the geometry of the tasks that have a sketch and a squared norm.

    Arguments:
        sketches: by task id.
        squares: exact squared norms, by task id.
        collision: probability of a collision in the sketches.
        exact: inner products that are known exactly, by pair of task ids, the smaller first.

    >>> geometry = geometry_of({0: np.array([3., 4.]), 1: np.array([0., -5.])}, {0: 25., 1: 25.}, collision=0.)
    >>> round(geometry.cosine[0, 1], 12), geometry.figures()['rate'], geometry.figures()['effective_tasks']
    (-0.8, 1.0, 2.0)
    """
    norms = {task: math.sqrt(squares[task]) for task in sorted(squares)}
    tasks = tuple(task for task, norm in norms.items() if norm > 0 and task in sketches)
    if not tasks:
        return TaskGeometry((), norms, np.zeros((0, 0)), np.zeros((0, 0)))
    stacked = np.stack([np.asarray(sketches[task], dtype=np.float64) for task in tasks])
    cosine, error = cosines(stacked, np.array([norms[task] for task in tasks]), collision)
    for (first, second), product in (exact or {}).items():
        if first in tasks and second in tasks and first != second:
            i, j = tasks.index(first), tasks.index(second)
            value = min(1.0, max(-1.0, product / (norms[first] * norms[second])))
            cosine[i, j] = cosine[j, i] = value
            error[i, j] = error[j, i] = ROUNDING
    return TaskGeometry(tasks, norms, cosine, error)
