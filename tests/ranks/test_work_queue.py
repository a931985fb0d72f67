"""When a background thread works: at once, or in the learner's next backward pass where these come step by step."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from ding_normmon.ranks.work_queue import WorkQueue


class Worker:
    """Takes entries in a thread and notes when."""

    def __init__(self, **options: float) -> None:
        self.queue: WorkQueue[int] = WorkQueue(64, **options)
        self.taken: list[tuple[int, float]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self.queue.is_closing:
            self.taken += [(entry, time.monotonic()) for entry in self.queue.take(None)]

    def wait_for(self, count: int, seconds: float = 10.0) -> None:
        until = time.monotonic() + seconds
        while len(self.taken) < count and time.monotonic() < until:
            time.sleep(0.002)
        assert len(self.taken) >= count

    def step(self, seconds: float) -> None:
        """One learner step, whose backward pass begins at its end."""
        time.sleep(seconds)
        self.queue.backward_begins()

    def become_patient(self) -> None:
        """Take two entries, 0 and 1, and collect what comes then for as long as steps are announced."""
        self.queue._seconds = 1e6
        self.step(0.0)
        self.step(0.02)
        for number in range(2):
            self.queue.put(number)
            self.queue.flush()
            self.wait_for(number + 1)
            self.step(0.02)

    def close(self) -> None:
        self.queue.close()
        self._thread.join(10)


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


def test_without_announcements_an_entry_is_taken_at_once(worker: Worker) -> None:
    for number in range(3):
        put_at = time.monotonic()
        worker.queue.put(number)
        worker.wait_for(number + 1)
        assert worker.taken[-1][1] - put_at < 1.0


def test_between_announcements_an_entry_waits_for_the_next(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('ding_normmon.ranks.work_queue._BURST_SIZE', 1)
    worker.become_patient()
    for number in range(2, 5):
        time.sleep(0.02)  # the thread is waiting again, patiently
        worker.queue.put(number)
        time.sleep(0.1)
        assert len(worker.taken) == number
        announced = time.monotonic()
        worker.queue.backward_begins()
        worker.wait_for(number + 1)
        assert worker.taken[-1][1] >= announced


def test_an_entry_does_not_wait_for_a_learner_that_has_stopped(worker: Worker) -> None:
    worker.step(0.0)
    worker.step(0.2)
    worker.queue.put(0)
    worker.wait_for(1)
    time.sleep(0.02)
    put_at = time.monotonic()
    worker.queue.put(1)
    worker.wait_for(2)
    assert worker.taken[-1][1] - put_at < 2.0
    # And from then on not at all.
    time.sleep(0.6)
    put_at = time.monotonic()
    worker.queue.put(2)
    worker.wait_for(3)
    assert worker.taken[-1][1] - put_at < 0.2


def test_announcements_far_apart_are_not_waited_for(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('ding_normmon.ranks.work_queue._MOST_PATIENCE', 0.1)
    for number in range(3):
        worker.step(0.15)
        worker.queue.put(number)
        worker.wait_for(number + 1)
    time.sleep(0.02)
    put_at = time.monotonic()
    worker.queue.put(3)
    worker.wait_for(4)
    assert worker.taken[-1][1] - put_at < 0.1


@pytest.mark.slow
def test_short_steps_share_a_good_moment(worker: Worker) -> None:
    worker.queue._seconds = 0.25
    worker.queue.put(0)
    worker.wait_for(1)
    for number in range(1, 30):
        worker.step(0.05)
        worker.queue.put(number)
    worker.wait_for(30)
    taken = [when for _, when in worker.taken]
    # Turns of the background thread: entries that were taken together have the same moment, but for microseconds.
    turns = 1 + sum(later - earlier > 0.02 for earlier, later in itertools.pairwise(taken))
    assert 3 <= turns <= 15
    assert [number for number, _ in worker.taken] == list(range(30))


def test_many_entries_do_not_wait_for_more(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker.queue._seconds = 1e6
    monkeypatch.setattr('ding_normmon.ranks.work_queue._BURST_SIZE', 5)
    worker.step(0.0)
    worker.step(0.02)
    for number in range(2):
        worker.queue.put(number)
        worker.queue.flush()
        worker.wait_for(number + 1)
        worker.step(0.02)
    for number in range(2, 7):
        assert len(worker.taken) == 2
        worker.queue.put(number)
        worker.step(0.02)
    worker.wait_for(7, seconds=2.0)


def test_in_a_hurry_no_moment_is_waited_for(worker: Worker) -> None:
    worker.become_patient()
    worker.queue.put(2)
    time.sleep(0.1)
    assert len(worker.taken) == 2
    worker.queue.flush()
    worker.wait_for(3, seconds=2.0)


def test_without_collecting_each_entry_has_its_own_moment() -> None:
    worker = Worker(seconds=0.0)
    worker.step(0.0)
    worker.step(0.02)
    for number in range(10):
        worker.queue.put(number)
        worker.step(0.02)
        worker.wait_for(number + 1, seconds=2.0)
    worker.close()


def test_the_end_does_not_wait(worker: Worker) -> None:
    worker.step(0.5)
    worker.step(0.5)
    worker.queue.put(0)
    worker.wait_for(1)
    worker.queue.put(1)
    begin = time.monotonic()
    worker.close()
    assert time.monotonic() - begin < 0.4
    assert [entry for entry, _ in worker.taken] == [0, 1]


def test_the_oldest_is_dropped() -> None:
    queue: WorkQueue[int] = WorkQueue(2)
    assert [queue.put(number) for number in range(4)] == [0, 0, 1, 1]
    assert len(queue) == 2
    assert queue.take(None) == [2, 3]
    queue.close(abandon=True)
    assert queue.take(None) == []
    assert (queue.is_closing, queue.is_abandoned) == (True, True)
