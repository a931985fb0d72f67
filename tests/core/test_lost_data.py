"""Lost data is counted by reason, and each reason is logged once."""

from __future__ import annotations

import logging
import threading

import pytest

from ding_normmon.core.lost_data import LostData


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == 'ding_normmon']


def test_the_first_loss_of_a_reason_is_logged_and_all_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    lost_data = LostData()
    with caplog.at_level(logging.WARNING, 'ding_normmon'):
        for amount in (1, 4, 2):
            lost_data.count('late', f'rank 1 was late by {amount} s', amount)
        lost_data.count('send', 'rows could not be sent')
    assert messages(caplog) == [
        'monitor: rank 1 was late by 1 s (logged once; counted as monitor/lost/late)',
        'monitor: rows could not be sent (logged once; counted as monitor/lost/send)',
    ]
    assert lost_data.total == {'late': 7, 'send': 1}


def test_take_returns_new_counts_and_give_back_undoes_it() -> None:
    lost_data = LostData()
    lost_data.count('late', 'late', 3, level=logging.DEBUG)
    taken = lost_data.take()
    assert taken == {'late': 3}
    assert lost_data.take() == {}
    lost_data.count('late', 'late', 2)
    lost_data.give_back(taken)
    assert lost_data.take() == {'late': 5}
    assert lost_data.total == {'late': 5}, 'what was given back is no new loss'


def test_counts_of_other_ranks_are_added_without_a_second_log_line(caplog: pytest.LogCaptureFixture) -> None:
    lost_data = LostData()
    with caplog.at_level(logging.DEBUG, 'ding_normmon'):
        lost_data.absorb({'send': 2})
        lost_data.absorb({'send': 5, 'late': 1})
    assert not messages(caplog)
    assert lost_data.take() == lost_data.total == {'send': 7, 'late': 1}


def test_concurrent_counts_are_all_kept(caplog: pytest.LogCaptureFixture) -> None:
    lost_data = LostData()
    taken: list[dict[str, int]] = []

    def lose() -> None:
        for _ in range(2_000):
            lost_data.count('late', 'late')

    def take() -> None:
        for _ in range(500):
            taken.append(lost_data.take())

    threads = [threading.Thread(target=target) for target in (lose, lose, lose, take)]
    with caplog.at_level(logging.WARNING, 'ding_normmon'):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    taken.append(lost_data.take())
    assert sum(entry.get('late', 0) for entry in taken) == lost_data.total['late'] == 6_000
    assert len(messages(caplog)) == 1
