"""The ranks no longer train the same model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.diagnose.invariants.invariant import Invariant, broken
from ding_normmon.diagnose.rule import Sign, Words
from ding_normmon.diagnose.window import Window

__all__ = ['ReplicasDiffer']

_WORDS = {'parameters': 'parameters', 'optimizer_state': 'optimizer state', 'gradient': 'synchronised gradient'}
_MOST_NAMED = 4


@dataclass
class ReplicasDiffer(Invariant):
    """Shared parameters, their optimizer's state or their synchronised gradient are not the same on every rank.

    Compared are bits, so there is no threshold. Groups that differ since the same record are one finding.
    """

    name: ClassVar[str] = 'replicas_differ'
    advice: ClassVar[str] = (
        'Stop, and go back to a checkpoint from before: the ranks train different models. Look at what broadcasts the '
        'weights, at whether every gradient is synchronised and clipped by the same factor on every rank, and at what '
        'one rank does alone.'
    )
    words: ClassVar[Words] = {
        'en': {
            'who': 'The ranks do not have the same {what} of {named}: {who}.',
            'some': 'The ranks do not have the same {what} of {named}.',
        },
        'zh': {
            'who': '各 rank 的 {named} 的 {what} 不一致：{who}。',
            'some': '各 rank 的 {named} 的 {what} 不一致。',
            'advice': '停止训练，回到之前的检查点：各 rank 训练的已是不同的模型。'
            '查看权重的广播、每个梯度是否在各 rank 上以同一系数同步和裁剪，以及某个 rank 单独做了什么。',
        },
    }
    reads: ClassVar[tuple[str, ...]] = ('monitor/replicas/compared', 'broken/replicas/')

    def __post_init__(self) -> None:
        self._began_together: list[tuple[str, ...]] = []

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign for all groups that differ since the same record."""
        kinds: dict[str, list[str]] = {}
        for name in broken(window, 'replicas'):
            group, _, kind = name.rpartition('/')
            kinds.setdefault(group, []).append(kind)
        known = {group for groups in self._began_together for group in groups}
        if new := tuple(group for group in kinds if group not in known):
            self._began_together.append(new)
        for groups in self._began_together:
            still = [group for group in groups if group in kinds]
            if not still:
                continue
            names = [f'broken/replicas/{group}/{kind}' for group in still for kind in kinds[group]]
            what = ', '.join(word for kind, word in _WORDS.items() if any(kind in kinds[group] for group in still))
            named = ', '.join(still[:_MOST_NAMED]) + (', ...' if len(still) > _MOST_NAMED else '')
            who = window.record.notes.get(names[0])
            yield Sign(
                'who' if who else 'some',
                group='+'.join(groups[:_MOST_NAMED]),
                evidence={name: window.record.scalars[name] for name in names},
                values={'what': what, 'named': named, **({'who': who} if who else {})},
            )
        self._began_together = [groups for groups in self._began_together if any(group in kinds for group in groups)]
