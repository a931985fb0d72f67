"""The monitor itself is losing points."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window
from ding_normmon.diagnose.wording import Words

__all__ = ['LosingPoints']


@dataclass
class LosingPoints(Rule):
    """Ranks are missing from records, or something was lost on the way."""

    name: ClassVar[str] = 'losing_points'
    advice: ClassVar[str] = (
        'The log gives each reason once. Missing ranks: look for a slow or dead one, or raise deadline. Destinations: '
        'look at the disk.'
    )
    words: ClassVar[Words] = {
        'en': {
            'ranks': '{amount:g} ranks are missing from the records.',
            'lost': 'The monitor loses data: {amount:g} times {reason}.',
        },
        'zh': {
            'ranks': '记录中缺少 {amount:g} 个 rank。',
            'lost': '监视器丢失了数据：{reason}，{amount:g} 次。',
            'advice': '日志对每个原因记录一次。缺少 rank：查看是否有缓慢或已退出的 rank，'
            '或提高 deadline。写入目标：查看磁盘。',
        },
    }
    reads: ClassVar[tuple[str, ...]] = ('monitor/',)
    follows: ClassVar[bool] = False

    clear: int = 10
    warmup: int = 2

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign for missing ranks and one per reason for lost data."""
        missing = window.record.scalars.get('monitor/missing_ranks', 0.0)
        if missing:
            evidence = {'monitor/missing_ranks': missing}
            yield Sign('ranks', group='ranks', evidence=evidence, values={'amount': missing})
        for name, amount in window.matching(r'monitor/lost/.+').items():
            reason = name.removeprefix('monitor/lost/')
            values: dict[str, float | str] = {'amount': amount, 'reason': reason}
            yield Sign('lost', group=reason, evidence={name: amount}, values=values)
