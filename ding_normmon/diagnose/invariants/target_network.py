"""The target network no longer follows the model as it did."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.diagnose.invariants.invariant import ExpectedInvariant
from ding_normmon.diagnose.rule import Sign, Words
from ding_normmon.diagnose.window import Window

__all__ = ['TargetNetwork']


_FIRST, _FACTOR = 20, 5.0


@dataclass
class TargetNetwork(ExpectedInvariant):
    """The target network rests longer than it ever has between two updates; or it is the model itself.

    Learnt from the first five updates, whether they come in every learner step or every hundred: as long as they came
    evenly, one that is overdue is told, and otherwise when three times the longest rest is over. Nothing is expected of
    a target network that was the model from the beginning.

    One that moves in every record must also go on at the rate of its beginning: at most five times as fast, and at
    least a fifth as fast, as in any of the first twenty.
    """

    name: ClassVar[str] = 'target_network'
    advice: ClassVar[str] = (
        'Look at what updates the target network: never called, or called with another factor: 0, 1, or 1 - factor.'
    )
    words: ClassVar[Words] = {
        'en': {
            'rests': 'The target network no longer follows the model.',
            'copy': 'The target network is the model itself, to the last bit.',
            'rate': 'The target network goes {now:.3g} of the way to the model in an iteration; '
            'before it was {usual:.3g}.',
        },
        'zh': {
            'rests': '目标网络不再跟随模型。',
            'copy': '目标网络与模型逐位相同。',
            'rate': '目标网络每次迭代走过到模型距离的 {now:.3g}；此前为 {usual:.3g}。',
            'advice': '查看是什么在更新目标网络：从未调用，或以另外的系数调用（0、1，或 1 减去系数）。',
        },
    }
    reads: ClassVar[tuple[str, ...]] = ('target/',)

    confirm: int = 3

    def __post_init__(self) -> None:
        self._fingerprint: float | None = None
        self._moved_at: int | None = None
        self._rests = 0
        self._shortest = self._longest = 0
        self._apart = 0
        self._rates: list[float] = []

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign for a target that rests too long, is the model, or follows at another rate."""
        scalars, iteration = window.record.scalars, window.iteration
        fingerprint, distance = scalars.get('monitor/fingerprint/target'), scalars.get('target/distance')
        if fingerprint is None or distance is None:
            return
        before, self._fingerprint = self._fingerprint, fingerprint
        if before is not None and fingerprint != before:
            self._note_move(iteration)
        elif self._moved_at is not None and self._rests >= self.settled:
            overdue = self._longest * (1 if self._longest == self._shortest else 3)
            if iteration - self._moved_at >= overdue:
                evidence = {'target/distance': distance}
                yield Sign('rests', group='target', evidence=evidence)
        if before is None or distance > 0.0:
            self._apart += before is not None
        elif self._apart >= 2 * self.settled:
            yield Sign('copy', group='target copy')
        else:
            # It is copied from the model now and then, and no different at that moment.
            self._apart = -(10**9)
        followed = scalars.get('target/followed')
        if followed is not None and fingerprint != before and distance > 0.0:
            yield from self._rate_signs(followed)

    def _rate_signs(self, followed: float) -> Iterable[Sign]:
        moves_always = self._rests >= self.settled and self._longest == self._shortest
        if len(self._rates) < _FIRST:
            self._rates.append(followed)
        elif moves_always and not min(self._rates) / _FACTOR <= followed <= max(self._rates) * _FACTOR:
            usual = min(self._rates, key=lambda rate: abs(rate - followed))
            values = {'now': followed, 'usual': usual}
            yield Sign('rate', group='target rate', evidence={'target/followed': followed}, values=values)

    def _note_move(self, iteration: int) -> None:
        if self._moved_at is not None:
            rest = iteration - self._moved_at
            self._shortest = rest if not self._rests else min(self._shortest, rest)
            self._longest = max(self._longest, rest)
            self._rests += 1
        self._moved_at = iteration
