"""Every sentence of every rule can be made in every language."""

from __future__ import annotations

import string

import pytest

from ding_normmon.core.finding import Finding
from ding_normmon.diagnose.rule import Rule
from ding_normmon.diagnose.rules import RULES
from ding_normmon.diagnose.wording import LANGUAGES, advice_of, sentence_of


def placeholders(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


@pytest.mark.parametrize('rule', RULES, ids=lambda rule: rule.name)
def test_languages_say_the_same(rule: type[Rule]) -> None:
    assert set(rule.words) == set(LANGUAGES)
    assert set(rule.words['zh']) - {'advice'} == set(rule.words['en']) != set()
    assert 'advice' in rule.words['zh']
    for key, english in rule.words['en'].items():
        assert placeholders(english) == placeholders(rule.words['zh'][key])


def test_a_finding_is_told_in_the_language_of_the_reader() -> None:
    finding = Finding(
        'gradient_jump', 'info', 3, 5, 'English.', 'Look.', (1,), ('Pong',),
        wording='task_risen+', values={'part': 'head_value', 'past': 0.5, 'level': 50.0},
    )  # fmt: skip
    assert sentence_of(finding, 'zh') == (
        '任务 1（Pong）： head_value 的梯度范数上升，从 0.5 到 50；其他任务没有这样变化。这可能是刚才发现的问题造成的。'
    )
    assert sentence_of(finding).startswith('Task 1 (Pong): the gradient norm of head_value has risen, from 0.5 to 50;')
    assert advice_of(finding, 'zh') != advice_of(finding) == 'Look.'


def test_what_has_no_words_stays_as_it_was_said() -> None:
    finding = Finding('somebodys', 'info', 3, 5, 'English.', 'Look.')
    assert (sentence_of(finding, 'zh'), advice_of(finding, 'zh')) == ('English.', 'Look.')


@pytest.mark.parametrize('values', [{}, {'part': 'x', 'past': 'high', 'level': 1.0}])
def test_a_damaged_finding_says_what_it_said(values: dict[str, float | str]) -> None:
    finding = Finding('gradient_jump', 'info', 3, 5, 'As told.', '', (1, 2), (), wording='task_risen', values=values)
    assert sentence_of(finding, 'zh') == 'As told.'
