"""Event files: what TensorBoard drops is dropped, runs are told apart, damage costs itself."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch.utils.tensorboard as torch_writer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.proto.tensor_pb2 import TensorProto
from tensorboardX.proto.tensor_shape_pb2 import TensorShapeProto

from ding_normmon.core.record import Record
from ding_normmon.destinations.tensorboard.frames import checksum, read_frames
from ding_normmon.runs import RunError, read_run
from ding_normmon.runs.history_file import FILE_NAME, HistoryFile
from tests.runs.histories import points

NAME = 'grad/encoder/_total_norm'


def write(folder: Path, values: dict[int, float], name: str = NAME, purge_step: int | None = None) -> None:
    number = len(list(folder.rglob('*tfevents*'))) if folder.exists() else 0
    writer = SummaryWriter(str(folder), purge_step=purge_step, filename_suffix=f'.{number}')
    for step, value in values.items():
        writer.add_scalar(name, value, step)
    writer.close()


@pytest.mark.parametrize('restarts', [[5], [8, 3], [0]])
def test_points_behind_a_restart_are_dropped_as_tensorboard_drops_them(tmp_path: Path, restarts: list[int]) -> None:
    write(tmp_path, dict.fromkeys(range(10), 1.0))
    for number, step in enumerate(restarts, 2):
        write(tmp_path, dict.fromkeys(range(step, step + 3), float(number)), purge_step=step)
    accumulator = EventAccumulator(str(tmp_path), size_guidance={'scalars': 0})
    accumulator.Reload()
    assert points(read_run(tmp_path), NAME) == {event.step: event.value for event in accumulator.Scalars(NAME)}


def test_two_runs_below_one_folder_are_refused_and_each_can_be_read(tmp_path: Path) -> None:
    for name, value in (('seed0', 1.0), ('seed1', 100.0)):
        write(tmp_path / name, dict.fromkeys(range(5), value))
    with pytest.raises(RunError, match='holds 2 runs') as refused:
        read_run(tmp_path)
    assert 'seed0' in str(refused.value)
    assert 'seed1' in str(refused.value)
    assert set(points(read_run(tmp_path / 'seed1'), NAME).values()) == {100.0}


def test_two_runs_are_refused_although_one_has_a_history_below(tmp_path: Path) -> None:
    write(tmp_path / 'a', {0: 1.0})
    write(tmp_path / 'b' / 'log', {0: 2.0})
    with pytest.raises(RunError, match='holds 2 runs'):
        read_run(tmp_path)


@pytest.mark.parametrize('kind', [SummaryWriter, torch_writer.SummaryWriter])
def test_curves_of_add_scalars_stay_apart(tmp_path: Path, kind: type) -> None:
    writer = kind(str(tmp_path))
    for step in range(3):
        writer.add_scalars('loss', {'task0': 1.0, 'task1': 2.0}, step)
        writer.add_scalar('other', 3.0, step)
    writer.close()
    run = read_run(tmp_path)
    values = {name: set(series.values.tolist()) for name, series in run.series.items()}
    assert sorted(map(sorted, values.values())) == [[1.0], [2.0], [3.0]]
    assert 'other' in values
    assert any('task0' in name for name in values)


def test_folders_that_complete_each_other_are_one_run(tmp_path: Path) -> None:
    write(tmp_path / 'log' / 'learner', {0: 1.0})
    write(tmp_path / 'log' / 'evaluator', {0: 2.0}, name='eval/return')
    assert set(read_run(tmp_path).series) == {NAME, 'eval/return'}


@pytest.mark.parametrize('part', range(0, 100, 9))
def test_damage_in_an_event_file_costs_the_event_that_it_is_in(tmp_path: Path, part: int) -> None:
    write(tmp_path, {step: float(step) for step in range(30)})
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    frames = list(read_frames(bytes(data)))
    position = len(data) * part // 100
    data[position] ^= 0x40
    path.write_bytes(data)
    run = read_run(tmp_path)
    hit = next(number for number, frame in enumerate(frames) if position < frame.stop + 4)
    assert points(run, NAME) == {step: float(step) for step in range(30) if step != hit - 1}
    assert 'damaged' in run.warnings[0]


def test_a_shape_of_more_numbers_than_there_is_memory_is_no_scalar(tmp_path: Path) -> None:
    def frame(tensor: TensorProto) -> bytes:
        event = Event(step=1, summary=Summary(value=[Summary.Value(tag='t', tensor=tensor)])).SerializeToString()
        head = struct.pack('<Q', len(event))
        return head + checksum(head) + event + checksum(event)

    huge = TensorShapeProto(dim=[TensorShapeProto.Dim(size=10**12)])
    (tmp_path / 'events.out.tfevents.1.host').write_bytes(
        frame(TensorProto(dtype=1, tensor_shape=huge, float_val=[1.0]))
        + frame(TensorProto(dtype=2, tensor_content=np.float64(2.5).tobytes()))
        + frame(TensorProto(dtype=3, int_val=[7, 8]))
    )
    assert points(read_run(tmp_path), 't') == {1: 2.5}


def write_as_di_engine(folder: Path) -> None:
    """Its loggers write a figure over iterations and over environment steps, and 0 where nobody reported one."""
    for axis, every in (('learner_iter', 1), ('learner_step', 10)):
        write(folder, {step * every: 0.0 for step in range(3)}, name=f'{axis}/{NAME}_avg')


def test_a_figure_of_another_logger_has_the_name_that_it_stands_for(tmp_path: Path) -> None:
    write_as_di_engine(tmp_path)
    assert points(read_run(tmp_path), NAME) == {0: 0.0, 1: 0.0, 2: 0.0}


@pytest.mark.parametrize('has_history', [False, True])
def test_figures_of_another_logger_are_not_mixed_with_the_monitors(tmp_path: Path, has_history: bool) -> None:
    write_as_di_engine(tmp_path)
    if has_history:
        write_history(tmp_path, {5: 2.0})
    else:
        write(tmp_path, {5: 2.0})
    run = read_run(tmp_path)
    assert points(run, NAME) == {5: 2.0}
    assert points(run, f'learner_iter/{NAME}_avg') == {0: 0.0, 1: 0.0, 2: 0.0}


def test_a_figure_that_the_monitor_leaves_out_is_not_taken_from_another_logger(tmp_path: Path) -> None:
    write_as_di_engine(tmp_path)
    write_history(tmp_path, {5: 2.0}, name='grad_local/encoder/mean')
    assert NAME not in read_run(tmp_path).series


def write_history(folder: Path, values: dict[int, float], name: str = NAME) -> None:
    file = HistoryFile(folder / FILE_NAME)
    for step, value in values.items():
        file.publish(Record(step, {name: value}))
    file.close()
