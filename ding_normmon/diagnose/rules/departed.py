"""A stage of the learner step whose figures have left their past: the rule of every stage, and its sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from ding_normmon.core.figure import Stage
from ding_normmon.core.finding import Severity
from ding_normmon.diagnose.departure import Departure
from ding_normmon.diagnose.departures import SPACING
from ding_normmon.diagnose.rule import Rule, Sign, Words
from ding_normmon.diagnose.window import Window

__all__ = ['Departed', 'words_of']

_VERBS = {
    'en': {'risen': 'has risen', 'fallen': 'has fallen', 'turned': 'has changed its sign'},
    'zh': {'risen': '上升', 'fallen': '下降', 'turned': '变号'},
}
_SENTENCES = {
    'en': {
        'task': "{{task}}: {what} {verb}, from {{past:.3g}} to {{level:.3g}}; the other tasks' has not.",
        'all': 'Of all tasks, {what} {verb}; of most from about {{past:.3g}} to {{level:.3g}}.',
        'shared': 'From {{past:.3g}} to {{level:.3g}}: {what} {verb}.',
    },
    'zh': {
        'task': '{{task}}：{what}{verb}，从 {{past:.3g}} 到 {{level:.3g}}；其他任务没有这样变化。',
        'all': '所有任务的{what}都{verb}，大多从约 {{past:.3g}} 到 {{level:.3g}}。',
        'shared': '{what}{verb}，从 {{past:.3g}} 到 {{level:.3g}}。',
    },
}

_PLAIN = {'en': '{part}', 'zh': ' {part} '}

_UNCONFIRMED = 0.99

_LEARNT: Mapping[Stage, float] = {
    **dict.fromkeys(('output', 'representation', 'gradient', 'update'), 2.0),
    **dict.fromkeys(('target', 'loss'), math.inf),
}
"""Strengths up to which what a stage does is learnt where a task has had its first rewards."""


def words_of(english: str, chinese: str, advice: str) -> Words:
    """Return the sentences of one stage.

    Arguments:
        english: what its figures are called, with ``{part}`` for the part of the model or the signal.
        chinese: the same.
        advice: the Chinese advice.
    """
    words: dict[str, dict[str, str]] = {}
    for language, what in (('en', english), ('zh', chinese)):
        words[language] = {
            f'{scope}_{direction}{suffix}': template.format(what=called, verb=verb)
            for suffix, called in (('', what), ('_plain', _PLAIN[language]))
            for scope, template in _SENTENCES[language].items()
            for direction, verb in _VERBS[language].items()
        }
    words['zh']['advice'] = advice
    return words


@dataclass
class Departed(Rule):
    """Base of the rules about one stage.

    Attributes:
        stage: the stage.

    Options:
        threshold: how many times the usual threshold a departure must reach.
        points: number of points that must be away before it becomes a finding, five iterations apart; fewer where they
            lie further apart.
    """

    stage: ClassVar[Stage]
    fewest: ClassVar[int] = 2
    release: ClassVar[float] = 0.65
    judges_departures: ClassVar[bool] = True

    confirm: int = 1
    clear: int = 12
    warmup: int = 4
    threshold: float = 1.0
    points: int = 4

    def signs(self, window: Window) -> Iterable[Sign]:
        """One sign for each task that has left its past alone, and one for what all tasks share."""
        by_owner: dict[tuple[str, int | None], list[tuple[float, Departure]]] = {}
        for departure in window.departed:
            if departure.figure.stage == self.stage and not window.is_summary(departure):
                scope, task, strength = window.owner(departure)
                by_owner.setdefault((scope, task), []).append((strength, departure))
        for (scope, task), departures in by_owner.items():
            strength, strongest = max(departures, key=lambda entry: entry[0])
            strength /= max(self.threshold, 1e-6)
            points = self.points_for(strongest, window.gap)
            enough = max(self.fewest_for(strongest), math.ceil(points * SPACING / max(window.gap, SPACING)))
            if strongest.age < (min(enough, 2) if strongest.is_rare else enough):
                strength = min(strength, _UNCONFIRMED)
            others = {departure.name: departure.level for _, departure in departures[:6]}
            yield Sign(
                f'{scope}_{_direction(strongest)}' + ('' if _is_norm(strongest.family) else '_plain'),
                self.weighed(strength, [departure for _, departure in departures]),
                () if task is None else (task,),
                _part(strongest.family) if task is None else None,
                {strongest.name: strongest.level, 'usual level': strongest.past, **others},
                {'part': _part(strongest.family), 'past': strongest.past, 'level': strongest.level},
                stage=self.stage,
                since=strongest.since,
                topic=scope,
                severity=self.severity_of(strongest, [departure for _, departure in departures], window),
            )

    def points_for(self, departure: Departure, gap: int) -> int:
        """Return how many points must be away, five iterations apart."""
        return self.points

    def fewest_for(self, departure: Departure) -> int:
        """Return how many points must be away, however far apart they lie."""
        return self.fewest

    def weighed(self, strength: float, departures: list[Departure]) -> float:
        """Return the strength of a sign with regard to all departures of its owner at this stage."""
        return strength

    def severity_of(self, departure: Departure, its: list[Departure], window: Window) -> Severity | None:
        """Return what replaces the rule's own severity; None for nothing.

        Arguments:
            departure: the strongest one of its owner at this stage.
            its: all of them.
            window: the run.
        """
        is_learning = departure.shift > 0 and departure.strength < _LEARNT.get(self.stage, 0.0)
        return 'info' if is_learning and window.has_first_rewards(departure) else None


def _direction(departure: Departure) -> str:
    if departure.past * departure.level < 0 and min(abs(departure.past), abs(departure.level)) > 0.1 * max(
        abs(departure.past), abs(departure.level)
    ):
        return 'turned'
    return 'risen' if departure.shift > 0 else 'fallen'


def _is_norm(family: str) -> bool:
    return family.endswith(('/_total_norm', '/relative'))


def _part(family: str) -> str:
    """Return what a figure is about.

    >>> _part('grad/head_value/_total_norm'), _part('logits/policy/abs_max'), _part('noreduce_value_loss')
    ('head_value', 'logits/policy/abs_max', 'value_loss')
    """
    if _is_norm(family):
        return family.split('/', 1)[1].rpartition('/')[0]
    return family.removeprefix('noreduce_')
