"""The target network no longer follows the model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.diagnose.invariants.invariant import ExpectedInvariant
from ding_normmon.diagnose.rule import Sign
from ding_normmon.diagnose.window import Window

__all__ = ['TargetNetwork']


@dataclass
class TargetNetwork(ExpectedInvariant):
    """The target network has moved between all records of the beginning, and no longer does; or it is the model itself.

    A target that is copied from the model now and then stands still in between, so nothing is expected of it; nor of
    one that was the model from the beginning.
    """

    name: ClassVar[str] = 'target_network'
    advice: ClassVar[str] = 'Look at what updates the target network: never called, or called with a factor of 0 or 1.'
    reads: ClassVar[tuple[str, ...]] = ('target/',)

    settled: int = 10
    confirm: int = 3

    def __post_init__(self) -> None:
        self._last: float | None = None
        self._moved = 0
        self._apart = 0

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign."""
        scalars = window.record.scalars
        fingerprint, distance = scalars.get('monitor/fingerprint/target'), scalars.get('target/distance')
        if fingerprint is None or distance is None:
            return
        last, self._last = self._last, fingerprint
        stands = fingerprint == last
        if stands and self._moved >= self.settled:
            evidence = {'target/distance': distance}
            yield Sign('The target network no longer follows the model.', group='target', evidence=evidence)
        elif stands:
            # It rests between its updates.
            self._moved = -(10**9)
        else:
            self._moved += last is not None
        if distance == 0.0 and self._apart >= self.settled:
            yield Sign('The target network is the model itself, to the last bit.', group='target copy')
        elif distance > 0.0:
            self._apart += 1
