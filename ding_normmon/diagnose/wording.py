"""Makes the sentences of findings where they are shown, in the language of whoever reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ding_normmon.core.finding import Finding

__all__ = ['LANGUAGES', 'Words', 'advice_of', 'call', 'sentence', 'sentence_of']

Words = Mapping[str, Mapping[str, str]]
"""Sentences by language and key."""

LANGUAGES = ('en', 'zh')

_TASK = {'en': ('Task {}', 'Task {} ({})'), 'zh': ('任务 {}', '任务 {}（{}）')}
_COMMA = {'en': ', ', 'zh': '、'}
_FOLLOWS = {'en': ' It may follow from what was just found.', 'zh': '这可能是刚才发现的问题造成的。'}


def call(task_id: int, name: str, language: str = 'en') -> str:
    """Return a task's name for the start of a sentence.

    Example:
        >>> call(1, 'Pong'), call(1, 'task 1'), call(1, 'Pong', 'zh')
        ('Task 1 (Pong)', 'Task 1', '任务 1（Pong）')
    """
    plain, named = _TASK[language]
    return plain.format(task_id) if name in ('', f'task {task_id}', f'task{task_id}') else named.format(task_id, name)


def sentence(
    words: Words,
    key: str,
    values: Mapping[str, float | str],
    tasks: Mapping[int, str],
    language: str = 'en',
) -> str:
    """Return one of a rule's sentences.

    Arguments:
        words: the rule's.
        key: which sentence; one that is not there is the sentence itself.
        values: what stands in it; ``other`` is the id of a task.
        tasks: global id to name of the tasks at fault, the first of which is ``{task}``; ``{tasks}`` are all of them.
        language: one of :data:`LANGUAGES`.

    Example:
        >>> words = {'en': {'high': '{task}: {size:.2g} is high.'}, 'zh': {'high': '{task}：{size:.2g} 过高。'}}
        >>> sentence(words, 'high', {'size': 2.55}, {3: 'Pong'}, 'zh')
        '任务 3（Pong）：2.5 过高。'
    """
    template = words.get(language, {}).get(key.removesuffix('+'))
    if template is None:
        return key
    filled: dict[str, Any] = dict(values)
    if tasks:
        filled['task'] = call(*next(iter(tasks.items())), language)
        filled['tasks'] = _COMMA[language].join(call(*task, language) for task in tasks.items())
    if 'other' in values:
        other = int(values['other'])
        filled['other'] = call(other, str(values.get('other_name', '')), language)
        if language == 'en':
            filled['other'] = f't{filled["other"][1:]}'
    return template.format_map(filled) + (_FOLLOWS[language] if key.endswith('+') else '')


def sentence_of(finding: Finding, language: str = 'en') -> str:
    """Return what a finding says, in English where its rule has no words in the language.

    A finding that was read from a file may lack what the sentence needs; it says then what it said when it was made.
    """
    words = _words().get(finding.rule, {})
    if not finding.wording or finding.wording.removesuffix('+') not in words.get(language, {}):
        return finding.sentence
    tasks = dict(zip(finding.tasks, finding.task_names, strict=False))
    try:
        return sentence(words, finding.wording, finding.values, tasks, language)
    except (KeyError, ValueError, TypeError):
        return finding.sentence


def advice_of(finding: Finding, language: str = 'en') -> str:
    """Return what a finding advises, in English where its rule has no words in the language."""
    return _words().get(finding.rule, {}).get(language, {}).get('advice', finding.advice)


def _words() -> dict[str, Words]:
    from ding_normmon.diagnose.rules import RULES

    return {rule.name: rule.words for rule in RULES}
