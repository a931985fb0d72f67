"""Hooks that only some metrics need. A metric derives from one or several of these classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ding_normmon.core.step import HOOK_POINTS, Clip
from ding_normmon.metrics.base import LearnerStep, Metric, RowBuffer, RowKey, Vector
from ding_normmon.metrics.kernels.device_signals import DeviceSignals
from ding_normmon.metrics.stepping import SteppingOptimizers
from ding_normmon.rows.moments import Row

__all__ = [
    'ClipListener',
    'DeviceCells',
    'Finishing',
    'KeepsSignals',
    'LossParts',
    'OwnHooks',
    'WatchesOptimizers',
    'takes_graph',
]

_Method = TypeVar('_Method', bound=Callable[..., Any])


def takes_graph(method: _Method) -> _Method:
    """Mark an ``on_publish`` or ``on_publish_loss`` that takes tensors as the policy has them, with their graph.

    The method must not keep them; a tensor that is read once, in C, needs no detaching. The mark belongs to the method:
    one that overrides it gets detached tensors again.
    """
    method.takes_graph = True  # type: ignore[attr-defined]
    return method


class DeviceCells(Metric):
    """Raw float64 cells on the device, which are copied to the host with the rows of the step.

    Attributes:
        num_cells: how many; set in ``prepare``.
    """

    num_cells: int = 0

    def bind(self, cells: Tensor) -> None:
        """Receive the view of the cells, shape (num_cells,), after ``prepare``."""

    def unpack(self, cells: npt.NDArray[np.float64]) -> Iterator[tuple[RowKey, Row]]:
        """Yield rows made from the raw cells after they have reached the host; only if measured in this step.

        In a background thread, while the next step may be under way: only ``cells`` and what ``prepare`` has made may
        be read.
        """
        yield from ()

    def unpack_rows(self, cells: npt.NDArray[np.float64]) -> tuple[Sequence[RowKey], Row]:
        """Return what :meth:`unpack` yields, as keys and a table of shape (len(keys), 6).

        Override it if the rows exist as a table already.
        """
        pairs = list(self.unpack(cells))
        return [key for key, _ in pairs], np.array([row for _, row in pairs], dtype=np.float64).reshape(-1, 6)

    def unpack_vectors(self, cells: npt.NDArray[np.float64]) -> Iterator[tuple[RowKey, Vector]]:
        """Yield vectors made from the raw cells: copies, of one dimension, float32 or float64, not empty.

        The vectors that several ranks send under one key are added up on rank 0.
        """
        yield from ()


class Finishing(Metric):
    """Rows that can be written only when the step has ended."""

    def finish(self, rows: RowBuffer) -> None:
        """Write the rows; called if one of ``hook_points`` fired."""


class ClipListener(Metric):
    """Reported clip calls, in measured steps and, with ``every_step``, in all others.

    Attributes:
        every_step: whether it is told of every learner step, monitored or not; set in ``prepare`` at the latest.
    """

    every_step: bool = False

    def begin_any_step(self) -> None:
        """Note that a learner step begins, monitored or not; only with ``every_step``."""

    def on_clip(self, clip: Clip, rows: RowBuffer) -> None:
        """Measure one clip call."""

    def on_clip_of_any_step(self, clip: Clip) -> None:
        """Note a clip call in a step that is not measured; only with ``every_step``."""


class KeepsSignals(Metric):
    """Published tensors on an accelerator, kept until the first hook point and then measured together.

    Attributes:
        signals: those that are kept; made in ``__init__``.
    """

    hook_points: ClassVar[tuple[str, ...]] = HOOK_POINTS
    signals: DeviceSignals

    def begin(self, step: LearnerStep) -> None:
        """Keep what is published from now on."""
        self.signals.begin()

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        """Write the rows of everything that was kept.

        Raises:
            SignalError: something was changed in place since it was published.
        """
        self.signals.write(hook_point, rows)

    def release(self) -> None:
        """Drop what was kept of a step that ended before its first hook point."""
        self.signals.release()


class LossParts(Metric):
    """The terms of the losses, ``step.parts``, which policies compute only if a metric reads them.

    Attributes:
        reads_parts: whether they are read; set in ``prepare``.
    """

    reads_parts: bool = False


class OwnHooks(Metric):
    """Hooks of the metric's own, whose time the monitor cannot measure.

    Attributes:
        hook_milliseconds: time spent in them in this step; the monitor reads and resets it when the step ends.
    """

    hook_milliseconds: float = 0.0


class WatchesOptimizers(Metric):
    """Metrics that ask which optimizers step and what they hold."""

    @property
    def _stepping(self) -> SteppingOptimizers:
        return self.setup.optimizers

    def begin(self, step: LearnerStep) -> None:
        """Watch which optimizers step."""
        self._stepping.watch()

    def release(self) -> None:
        """Stop watching."""
        self._stepping.release()
