"""The gradients of layer outputs, summed per unit in the training backward pass."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ding_normmon.metrics.base import RowBuffer, RowKey
from ding_normmon.metrics.maths.dormancy import activities, activity, unit_sums

__all__ = ['OutputGradients']


class OutputGradients:
    """Activity vectors of the gradients of outputs, from hooks that exist for one step.

    Attributes:
        milliseconds: time spent in the hooks.
    """

    def __init__(self) -> None:
        self.milliseconds = 0.0
        self._handles: list[RemovableHandle] = []
        self._sums: dict[RowKey, Tensor] = {}
        self._is_started = False
        self._error: Exception | None = None

    def listen(self, key: RowKey, output: Tensor, mask: Tensor | None, on_host: bool, stride: int) -> None:
        """Sum the gradient of an output when the backward pass reaches it.

        Arguments:
            key: key of its vector.
            output: with its graph.
            mask: valid samples on a host, padded time steps on an accelerator; None if all are valid.
            on_host: whether the output is on a CPU.
            stride: one of so many units is kept.
        """
        self._handles.append(output.register_hook(self._hook(key, mask, on_host, stride)))

    def start(self) -> None:
        """Count backward passes from now on; earlier ones are those of other metrics."""
        self._is_started = True

    def _hook(self, key: RowKey, mask: Tensor | None, on_host: bool, stride: int) -> Callable[[Tensor], None]:
        def add_up(gradient: Tensor) -> None:
            if not self._is_started:
                return
            started = time.perf_counter()
            # Exceptions must not reach autograd.
            try:
                with torch.no_grad():
                    if on_host:
                        self._sums[key] = activity(gradient.detach(), mask, stride)
                    else:
                        invalid = None if mask is None else mask[None]
                        self._sums[key] = unit_sums(gradient.detach()[None], invalid)[0]
            except Exception as error:
                self._error = error
            self.milliseconds += (time.perf_counter() - started) * 1e3

        return add_up

    def write(self, rows: RowBuffer, stride: int) -> None:
        """Write the vectors; on an accelerator those of one length together.

        Raises:
            Exception: the error of a hook.
        """
        if self._error is not None:
            raise self._error
        by_size: dict[int, list[RowKey]] = {}
        for key, vector in self._sums.items():
            if rows.on_host:
                rows.write_vector(key, vector)
            else:
                by_size.setdefault(len(vector), []).append(key)
        for keys in by_size.values():
            rows.write_vectors(keys, activities(torch.stack([self._sums[key] for key in keys]), stride))
        self._sums.clear()

    def release(self) -> None:
        """Remove the hooks and drop every tensor."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._sums.clear()
        self._is_started, self._error = False, None
