"""How much gradient clipping takes away: the factor that a clip call multiplies the gradients with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from ding_normmon.moments import COUNT, MEAN, MINIMUM, constant_row, device_row_of
from ding_normmon.quantities.quantity import Quantity
from ding_normmon.rows import RowBuffer, RowKey, RowTable

__all__ = ['Clipping', 'clip_coefficient']


def clip_coefficient(norm: Tensor | float, max_norm: float) -> Tensor | float:
    """Return min(1, max_norm / (norm + 1e-6)), the factor of ``torch.nn.utils.clip_grad_norm_``.

    >>> round(clip_coefficient(4.0, 0.5), 6)
    0.125
    >>> clip_coefficient(0.25, 0.5)
    1.0
    """
    factor = max_norm / (norm + 1e-6)
    return factor.clamp(max=1.0) if isinstance(factor, Tensor) else min(1.0, factor)


class Clipping(Quantity):
    """``clip/{model}/coefficient``: the factor of this step, 1 where nothing was clipped; of several ranks that clip
    each for itself, the smallest. ``clip/{model}/fraction`` (``clip_fraction=True``): the share of the steps since the
    last record in which the factor was below 1; it needs every step.

    Nothing is computed here but a few numbers per clip call; the norm is the one that the clip call has computed.
    """

    name: ClassVar[str] = 'clipping'
    hook_points: ClassVar[tuple[str, ...]] = ('backward_end',)

    def __init__(self) -> None:
        self._coefficients: dict[str, Tensor | float] = {}
        self._clipped: dict[str, tuple[Tensor | float, int]] = {}

    def add(self, model: str, coefficient: Tensor | float, due: bool) -> None:
        """Take the factor of one clip call, in a step that is due or, with ``clip_fraction``, in any other.

        Arguments:
            model: the part of the model that is clipped.
            coefficient: the factor; a tensor is not looked at.
            due: whether the step is measured.
        """
        with torch.no_grad():
            if self.setup.config.clip_fraction:
                clipped, steps = self._clipped.get(model, (0.0, 0))
                below = (coefficient < 1).double() if isinstance(coefficient, Tensor) else float(coefficient < 1)
                self._clipped[model] = (clipped + below, steps + 1)
            if due:
                # Two calls on the same parameters multiply.
                self._coefficients[model] = self._coefficients.get(model, 1.0) * coefficient

    def finish(self, rows: RowBuffer) -> None:
        """Write the factors of the step, and the share of clipped steps."""
        for model, coefficient in self._coefficients.items():
            self._write(rows, RowKey(self.name, model, None, 'coefficient'), coefficient)
        for model, (clipped, steps) in self._clipped.items():
            self._write(rows, RowKey(self.name, model, None, 'fraction'), clipped / steps)
        self.forget()
        self._clipped.clear()

    def forget(self) -> None:
        """Drop the factors of a step that is not measured to its end."""
        self._coefficients.clear()

    @staticmethod
    def _write(rows: RowBuffer, key: RowKey, value: Tensor | float) -> None:
        if isinstance(value, Tensor) and not rows.on_host:
            rows.write(key, device_row_of(value.detach()))
        else:
            rows.write(key, constant_row(float(value)))

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        """Yield the factors and fractions."""
        for part, column in (('coefficient', MINIMUM), ('fraction', MEAN)):
            for model, tasks in table.of(self.name, part).items():
                for row in tasks.values():
                    if row[COUNT] > 0:
                        yield f'clip/{model}/{part}', float(row[column])
