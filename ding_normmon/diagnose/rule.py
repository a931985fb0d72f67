"""The base class of rules, and the signs that they find in a record."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from ding_normmon.core.config import ConfigurationError
from ding_normmon.core.figure import Stage
from ding_normmon.core.finding import Severity
from ding_normmon.diagnose.window import Window
from ding_normmon.diagnose.wording import Words

__all__ = ['Rule', 'Sign', 'Words']


@dataclass(frozen=True)
class Sign:
    """A pattern that a rule sees in one record; signs that persist become findings.

    Arguments:
        sentence: what is wrong, in plain words and with figures; or the key of one of the rule's ``words``.
        strength: 1 at the rule's threshold, more beyond it. Above 1 it may become a finding, which stays active while
            there are signs of at least ``Rule.release``.
        tasks: global ids of the tasks at fault.
        group: parameter group or signal at fault.
        evidence: the figures.
        values: what stands in the sentence of that key.
        severity: replaces the rule's own severity.
        stage: where in the learner step the pattern is; empty where the rule itself names the cause.
        since: iteration at which it began; None: that of the first sign.
        topic: what the sign is about, where ``group`` may differ from record to record.
    """

    sentence: str
    strength: float = 1.0
    tasks: tuple[int, ...] = ()
    group: str | None = None
    evidence: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[str, float | str] = field(default_factory=dict)
    severity: Severity | None = None
    stage: Stage = ''
    since: int | None = None
    topic: str = ''

    @property
    def key(self) -> tuple[tuple[int, ...], str | None]:
        """Identity of a sign: two signs of a rule with the same key belong to the same finding."""
        return (self.tasks, self.topic or self.group)


@dataclass
class Rule:
    """Base of all rules: a dataclass whose fields are its options, each with a default.

    Attributes:
        name: the rule's name in the configuration and in findings.
        severity: severity of its findings.
        advice: what to try.
        words: its sentences by language and key, with ``{name}`` for a value, ``{task}`` and ``{other}`` for tasks;
            other languages than English also have the ``advice``.
        reads: prefixes of the metrics that the rule needs.
        follows: whether its findings are only information if another rule has just named a task: a fault of one task
            also affects shared parts and other tasks.
        leads: whether findings of other rules in the next records are only information if it has just named a task.
        release: a finding stays active while there are signs of at least this strength.
        judges_all: whether it judges every record, even when there is no time for the other rules; it may then read
            only the newest record (``window.record``).
        judges_departures: whether it reads nothing but the figures that are away from their past, and so has something
            to do only where there are new points of them.

    Options of every rule:
        severity: replaces the rule's own severity.
        confirm: records in a row with a sign before it becomes a finding.
        clear: records in a row without a sign before the finding clears.
        warmup: records at the start, and after resuming, in which the rule reports nothing.

    Example:
        >>> @dataclass
        ... class LargeLoss(Rule):
        ...     name: ClassVar[str] = 'large_loss'
        ...     advice: ClassVar[str] = 'Look at the data.'
        ...     limit: float = 10.0
        ...     def signs(self, window):
        ...         for name, value in window.matching('loss').items():
        ...             yield Sign(f'The loss is {value:g}.', strength=value / self.limit)
        >>> LargeLoss.configured({'limit': 3.0}).limit
        3.0
        >>> LargeLoss.configured({'limits': 3.0})
        Traceback (most recent call last):
            ...
        ding_normmon.core.config.ConfigurationError: monitor.rules.large_loss.limits: no such option; the nearest is \
limit
    """

    name: ClassVar[str]
    advice: ClassVar[str]
    words: ClassVar[Words] = {}
    reads: ClassVar[tuple[str, ...]] = ()
    follows: ClassVar[bool] = True
    leads: ClassVar[bool] = True
    release: ClassVar[float] = 0.5
    judges_all: ClassVar[bool] = False
    judges_departures: ClassVar[bool] = False

    severity: Severity = 'warning'
    confirm: int = 3
    clear: int = 8
    warmup: int = 30

    @classmethod
    def configured(cls, options: Mapping[str, Any]) -> Rule:
        """Return the rule with some options set.

        Raises:
            ConfigurationError: an option that does not exist, or a value of another type.
        """
        known = {option.name: option for option in fields(cls)}
        for key, value in options.items():
            where = f'monitor.rules.{cls.name}.{key}'
            if key not in known:
                nearest = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
                raise ConfigurationError(f'{where}: no such option; the nearest is {nearest}')
            default = known[key].default
            if key == 'severity':
                if value not in ('info', 'warning', 'error'):
                    raise ConfigurationError(f"{where}: expected 'info', 'warning' or 'error', got {value!r}")
            elif isinstance(value, bool) or not isinstance(value, (int, float) if isinstance(default, float) else int):
                expected = 'a number' if isinstance(default, float) else 'an integer'
                raise ConfigurationError(f'{where}: expected {expected}, got {value!r} ({type(value).__name__})')
            elif value < 0:
                raise ConfigurationError(f'{where}: expected at least 0, got {value!r}')
        return cls(**options)

    def signs(self, window: Window) -> Iterable[Sign]:
        """Yield the signs in the newest record; called once per record, in the order of iterations."""
        return ()
