"""Text of unknown origin is shown, and does nothing."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from ding_normmon.core.finding import Finding, tell
from ding_normmon.core.plain_text import plain


@given(st.text(alphabet=st.characters(codec=None), max_size=50))
def test_nothing_is_left_that_a_terminal_obeys(text: str) -> None:
    shown = plain(text)
    assert not [c for c in shown if unicodedata.category(c) in ('Cc', 'Cf', 'Cs', 'Zl', 'Zp') and c not in '\n\t']
    if text.isprintable():
        assert shown == text


def test_letters_of_every_script_stay() -> None:
    for text in ('Pong', '回报与损失', 'مهمة', 'Übung é', '🎮'):
        assert plain(text) == text


def test_a_text_without_end_is_cut() -> None:
    assert len(plain('a' * 10**7)) < 3000


def test_what_is_told_of_a_finding_is_harmless() -> None:
    assert '\x1b' not in tell(Finding('odd', 'info', 0, 1, 'Task 0 (Po\x1b]0;x\x07ng).', '\x9b31m'))
