"""Records that go through a message queue which may lose them, and which nobody may be listening to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ding.utils import DistributedWriter
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ding_normmon.core.record import Record
from ding_normmon.integrations.ding_engine import remote_writer
from ding_normmon.integrations.ding_engine.writer import DIEngineWriter


class Router:
    """Two routers of one process, connected; the first messages of each kind may get lost."""

    is_active = True
    node_id = 0

    def __init__(self, lose: dict[str, int] | None = None) -> None:
        self.listeners: dict[str, list[Callable[..., Any]]] = {}
        self.lose = dict(lose or {})
        self.sent: list[str] = []

    def on(self, event: str, function: Callable[..., Any]) -> None:
        self.listeners.setdefault(event, []).append(function)

    def emit(self, event: str, *args: Any, **kwargs: Any) -> None:
        self.sent.append(event)
        if self.lose.get(event, 0) > 0:
            self.lose[event] -= 1
            return
        for function in self.listeners.get(event, []):
            function(*args, **kwargs)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_writer, 'AGAIN_SECONDS', 0.05)
    monkeypatch.setattr(remote_writer, 'PATIENCE_SECONDS', 0.5)
    monkeypatch.setattr(remote_writer, 'PAUSE_SECONDS', 0.0)


def send(folder: Path, router: Router, listening: bool, iterations: range = range(3)) -> dict[str, list[int]]:
    owner = DistributedWriter(str(folder)).plugin(router, is_writer=True)
    if listening:
        remote_writer.accept_records(owner)
    destination = DIEngineWriter(DistributedWriter(str(folder)).plugin(router, is_writer=False))
    for iteration in iterations:
        destination.publish(Record(iteration, {'norm/a': 1.0 + iteration, 'norm/b': 2.0}))
    destination.close()
    owner.close()
    accumulator = EventAccumulator(str(folder), size_guidance={'scalars': 0})
    accumulator.Reload()
    return {tag: [point.step for point in accumulator.Scalars(tag)] for tag in accumulator.Tags()['scalars']}


def test_a_record_is_one_message_and_one_answer(tmp_path: Path) -> None:
    router = Router()
    assert send(tmp_path, router, listening=True) == {'norm/a': [0, 1, 2], 'norm/b': [0, 1, 2]}
    assert router.sent == ['ding_normmon_record', 'ding_normmon_taken'] * 3


@pytest.mark.parametrize('event', ['ding_normmon_record', 'ding_normmon_taken'])
def test_what_is_lost_is_sent_again_and_written_once(tmp_path: Path, event: str) -> None:
    router = Router(lose={event: 2})
    assert send(tmp_path, router, listening=True) == {'norm/a': [0, 1, 2], 'norm/b': [0, 1, 2]}
    assert router.sent.count('ding_normmon_record') == 5


def test_an_owner_that_does_not_know_records_gets_scalars(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    router = Router()
    assert send(tmp_path, router, listening=False) == {'norm/a': [0, 1, 2], 'norm/b': [0, 1, 2]}
    assert router.sent.count('distributed_writer') == 6
    assert caplog.text.count('init_writer(cfg, owns_file=True)') == 1


def test_an_owner_that_falls_silent_is_an_error_that_can_be_counted(tmp_path: Path) -> None:
    router = Router()
    assert send(tmp_path, router, listening=True, iterations=range(1)) == {'norm/a': [0], 'norm/b': [0]}
    destination = DIEngineWriter(DistributedWriter(str(tmp_path)).plugin(router, is_writer=False))
    remote_writer.accept_records(DistributedWriter(str(tmp_path / 'other')).plugin(router, is_writer=True))
    destination.publish(Record(1, {'norm/a': 1.0}))
    router.lose['ding_normmon_record'] = 10**6
    with pytest.raises(RuntimeError, match='confirmed nothing'):
        destination.publish(Record(2, {'norm/a': 1.0}))


def test_a_record_that_cannot_be_written_does_not_stop_the_event_loop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    router = Router()
    owner = DistributedWriter(str(tmp_path)).plugin(router, is_writer=True)
    remote_writer.accept_records(owner)
    for path in tmp_path.iterdir():
        path.unlink()
    router.emit('ding_normmon_record', 'someone', 0, 5, {'norm/a': 1.0})
    assert 'could not be written' in caplog.text
    assert 'ding_normmon_taken' not in router.sent
