"""Sentences about exceptions."""

from __future__ import annotations

import pytest

from ding_normmon.monitor.announcements import call_exception


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError('no text')


def with_notes(notes: object) -> ValueError:
    error = ValueError('odd\nand long')
    vars(error)['__notes__'] = notes
    return error


@pytest.mark.parametrize(
    ('error', 'sentence'),
    [
        (with_notes(['in task 3.', 7]), 'ValueError: odd..., in task 3, 7, in the learner step of iteration 5.'),
        (with_notes('no list'), 'ValueError: odd..., in the learner step of iteration 5.'),
        (
            UnprintableError(),
            'UnprintableError: its text cannot be made (RuntimeError), in the learner step of iteration 5.',
        ),
    ],
)
def test_an_exception_is_told_whatever_it_holds(error: Exception, sentence: str) -> None:
    said, trace = call_exception(error, 5)
    assert said == sentence
    assert type(error).__name__ in trace
