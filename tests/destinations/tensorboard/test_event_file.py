"""Events are appended to the file of a tensorboardX writer, among events that others write through it."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch.utils.tensorboard as torch_tensorboard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX import SummaryWriter
from tensorboardX.proto.summary_pb2 import Summary

from ding_normmon.core.destination import RunDescription
from ding_normmon.core.record import Record
from ding_normmon.destinations import TensorBoard
from ding_normmon.destinations.tensorboard.event_file import append_event, flush_events, refuse_unwritable
from ding_normmon.destinations.tensorboard.figure_summaries import FigureSummaries


def summary(**figures: float) -> Summary:
    return Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in figures.items()])


def points(folder: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder), size_guidance={'scalars': 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)] if name in events.Tags()['scalars'] else []


def test_events_of_several_threads_are_not_broken(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))

    def others() -> None:
        for step in range(300):
            writer.add_scalar('theirs', step, step)

    thread = threading.Thread(target=others)
    thread.start()
    for iteration in range(300):
        append_event(writer.file_writer, summary(ours=2.0 * iteration), iteration)
    thread.join()
    flush_events(writer.file_writer)
    assert points(tmp_path, 'ours') == [(step, 2.0 * step) for step in range(300)]
    assert points(tmp_path, 'theirs') == [(step, float(step)) for step in range(300)]
    append_event(writer.file_writer, summary(ours=-1.0), 300)
    writer.close()
    assert points(tmp_path, 'ours')[-1] == (300, -1.0)


def test_the_writer_brings_events_to_the_disk_of_itself(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path), flush_secs=1)
    append_event(writer.file_writer, summary(ours=3.0), 7)
    until = time.monotonic() + 10
    while not points(tmp_path, 'ours') and time.monotonic() < until:
        time.sleep(0.1)
    assert points(tmp_path, 'ours') == [(7, 3.0)]
    writer.close()


def test_an_unknown_writer_is_used_through_its_public_method(tmp_path: Path) -> None:
    class EventWriter:
        pass

    class FileWriter:
        event_writer = EventWriter()

        def __init__(self) -> None:
            self.written: list[tuple[Any, int]] = []

        def add_summary(self, summary: Any, iteration: int) -> None:
            self.written.append((summary, iteration))

    writer = FileWriter()
    append_event(writer, summary(ours=3.0), 7)
    [(written, iteration)] = writer.written
    assert (written.value[0].tag, written.value[0].simple_value, iteration) == ('ours', 3.0, 7)


def test_a_file_that_is_gone_is_an_error(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    (file,) = tmp_path.iterdir()
    refuse_unwritable(writer.file_writer)
    file.unlink()
    with pytest.raises(OSError, match='no longer exists'):
        refuse_unwritable(writer.file_writer)
    writer.close()


def test_a_writer_whose_thread_has_died_is_an_error(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    writer.file_writer.event_writer._worker.stop()
    with pytest.raises(OSError, match='writer has died'):
        refuse_unwritable(writer.file_writer)


def test_after_a_full_disk_the_next_record_has_what_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SummaryWriter(str(tmp_path))
    destination = TensorBoard(writer)
    destination.begin(RunDescription({0: 'Pong'}))
    monkeypatch.setattr('ding_normmon.destinations.tensorboard.event_file._ROOM', 1 << 60)
    with pytest.raises(OSError, match='is full'):
        destination.publish(Record(7, {'ours': 3.0}))
    monkeypatch.undo()
    destination.publish(Record(8, {'ours': 4.0}))
    destination.close()
    assert points(tmp_path, 'ours') == [(8, 4.0)]
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert 'tasks' in events.Tags()['tensors']
    writer.close()


def test_summaries_hold_the_figures_of_the_last_call() -> None:
    summaries = FigureSummaries()
    records = [{'a': 1.0, 'b': 2.0}, {'a': 3.0, 'b': 4.0}, {'b': 5.0}, {'b': 6.0, 'a': 7.0}, {'a': 8.0, 'b': 9.0}, {}]
    # More sets of figures than are remembered.
    records += [{f'c{number}': float(number)} for number in range(20)] + [{'a': 10.0, 'b': 11.0}]
    for record in records:
        found = {value.tag: value.simple_value for value in summaries.of(record).value}
        assert list(found.items()) == list(record.items())


def test_an_event_keeps_its_figures_when_the_next_record_comes(tmp_path: Path) -> None:
    writer, summaries = SummaryWriter(str(tmp_path)), FigureSummaries()
    for iteration in range(3):
        append_event(writer.file_writer, summaries.of({'ours': float(iteration)}), iteration)
    writer.close()
    assert points(tmp_path, 'ours') == [(0, 0.0), (1, 1.0), (2, 2.0)]


def test_events_stand_in_the_file_of_torchs_writer_too(tmp_path: Path) -> None:
    writer = torch_tensorboard.SummaryWriter(str(tmp_path))
    destination = TensorBoard(writer)
    destination.begin(RunDescription({0: 'Pong'}, {'monitor_norm_freq': 5}))
    for iteration in range(0, 50, 5):
        writer.add_scalar('theirs', iteration, iteration)
        destination.publish(Record(iteration, {'grad/head_value_task0/_total_norm': 2.0 * iteration}))
    destination.close()
    steps = list(range(0, 50, 5))
    assert points(tmp_path, 'grad/head_value_task0/_total_norm') == [(step, 2.0 * step) for step in steps]
    assert points(tmp_path, 'theirs') == [(step, float(step)) for step in steps]
    events = EventAccumulator(str(tmp_path), size_guidance={'tensors': 0})
    events.Reload()
    assert {'tasks', 'custom_scalars__config__'} <= set(events.Tags()['tensors'])
    writer.add_scalar('theirs', -1.0, 50)
    writer.close()
    assert points(tmp_path, 'theirs')[-1] == (50, -1.0)


def test_a_file_of_torchs_writer_that_is_gone_is_refused(tmp_path: Path) -> None:
    writer = torch_tensorboard.SummaryWriter(str(tmp_path / 'events'))
    destination = TensorBoard(writer)
    shutil.rmtree(tmp_path / 'events')
    with pytest.raises(OSError, match='no longer exists'):
        destination.publish(Record(0, {'a': 1.0}))


@pytest.mark.parametrize('wrong', [None, object(), 'runs/mine'])
def test_what_is_no_writer_is_refused_at_once(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r'expected a SummaryWriter of tensorboardX or torch\.utils\.tensorboard'):
        TensorBoard(wrong)
