"""DI-engine's writer as a destination: a run that is resumed before it has a writer."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from ding.utils import DistributedWriter
from easydict import EasyDict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ding_normmon import Record, init_writer
from ding_normmon.core.destination import RunDescription
from ding_normmon.integrations.ding_engine.writer import DIEngineWriter


def test_a_writer_that_comes_after_the_resumption_hides_records_and_tells_the_configuration(tmp_path: Path) -> None:
    def accumulated() -> EventAccumulator:
        accumulator = EventAccumulator(str(tmp_path / 'run'), size_guidance={'scalars': 0})
        accumulator.Reload()
        return accumulator

    configuration = EasyDict(exp_name=str(tmp_path / 'run'), policy={'learning_rate': 0.5})
    init_writer(configuration)
    first = DIEngineWriter()
    first.begin(RunDescription(begins_at=0))
    for iteration in range(4):
        first.publish(Record(iteration, {'norm/a': 1.0, 'monitor/cost/ms': 1.0}))
    first.close()
    # Files are named after the second in which they were begun.
    [written] = (tmp_path / 'run').iterdir()
    written.rename(written.with_name('events.out.tfevents.1.first'))

    DistributedWriter.root = None
    resumed = DIEngineWriter()
    resumed.begin(RunDescription(begins_at=2, is_resumed=True))
    init_writer(configuration)
    assert [point.step for point in accumulated().Scalars('norm/a')] == [0, 1, 2, 3]
    resumed.publish(Record(3, {'norm/a': 2.0, 'monitor/cost/ms': 1.0}))
    resumed.close()
    assert [point.step for point in accumulated().Scalars('norm/a')] == [0, 1, 3]
    assert sum(b'policy.learning_rate' in path.read_bytes() for path in (tmp_path / 'run').iterdir()) == 2


def test_without_a_writer_nothing_is_lost_that_is_in_another_file(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Half of DI-engine's examples never call `ding_init`."""
    monkeypatch.setattr(DistributedWriter, 'root', None)
    caplog.set_level(logging.INFO, 'ding_normmon')
    destination = DIEngineWriter(elsewhere='the history file')
    for iteration in range(3):
        destination.publish(Record(iteration, {'loss': 1.0}))
    destination.close()
    assert caplog.text.count('DI-engine has no writer, so figures are only in the history file') == 1
    with pytest.raises(RuntimeError, match='DI-engine has no writer'):
        DIEngineWriter().publish(Record(0, {'loss': 1.0}))
