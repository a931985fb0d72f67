"""Matrices are drawn into the event file as pictures with the tasks' names."""

from __future__ import annotations

import builtins
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX import SummaryWriter

from ding_normmon import Matrix, Record
from ding_normmon.destinations import TensorBoard
from ding_normmon.destinations.tensorboard import destination as tensorboard
from ding_normmon.destinations.tensorboard.heatmap import draw_matrix

COSINE = Matrix(np.array([[1.0, -0.5], [-0.5, 1.0]]), (0, 3), (0, 3), {0: 'pong', 3: 'breakout'})
RECORD = Record(
    10,
    {'conflict/encoder/rate': 1.0},
    {'conflict/encoder/cosine': COSINE, 'conflict/encoder/standard_error': COSINE},
)


class Recorder:
    """Stands for a file writer."""


def written(folder: Path) -> EventAccumulator:
    writer = SummaryWriter(str(folder))
    destination = TensorBoard(writer)
    destination.publish(RECORD)
    destination.close()
    writer.close()
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_a_matrix_of_cosines_is_a_picture_at_its_iteration(tmp_path: Path) -> None:
    events = written(tmp_path)
    assert events.Tags()['images'] == ['conflict/encoder/cosine']
    (image,) = events.Images('conflict/encoder/cosine')
    assert image.step == 10
    assert image.encoded_image_string.startswith(b'\x89PNG')
    _, height, width = draw_matrix('conflict/encoder/cosine, iteration 10', COSINE)
    assert (image.width, image.height) == (width, height)
    assert [scalar.value for scalar in events.Scalars('conflict/encoder/rate')] == [1.0]


@pytest.mark.parametrize('tasks', [1, 2, 12])
@pytest.mark.parametrize('name', ['conflict/encoder/cosine', 'conflict/' + 'a_group_of_a_long_name/' * 5 + 'cosine'])
def test_a_title_is_whole(name: str, tasks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    pictures: list[Figure] = []
    original = Figure.suptitle
    monkeypatch.setattr(Figure, 'suptitle', lambda self, *a, **k: pictures.append(self) or original(self, *a, **k))
    ids = tuple(range(tasks))
    draw_matrix(f'{name}\niteration 1234567', Matrix(np.eye(tasks), ids, ids))
    (picture,) = pictures
    extent = picture.texts[0].get_window_extent()
    assert extent.x0 >= 0
    assert extent.x1 <= picture.bbox.x1
    assert ''.join(picture.get_suptitle().split()) == f'{name}iteration1234567'


def test_the_names_of_the_tasks_stand_on_the_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    texts: list[str] = []
    original = Axes.set_yticks

    def remember(self: Axes, ticks: Any, labels: Any = None, **kwargs: Any) -> Any:
        texts.extend(labels or [])
        return original(self, ticks, labels, **kwargs)

    monkeypatch.setattr(Axes, 'set_yticks', remember)
    draw_matrix('title', Matrix(np.eye(3), (0, 3, 4), (0, 3, 4), {0: 'pong', 3: 'breakout'}))
    assert texts == ['pong', 'breakout', '4']


def test_without_matplotlib_there_are_only_scalars_and_it_is_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith('matplotlib'):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without)
    events = written(tmp_path)
    assert events.Tags()['images'] == []
    assert events.Scalars('conflict/encoder/rate')
    assert caplog.text.count('Matplotlib cannot be imported') == 1


def test_pictures_take_no_more_than_their_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    clock, used = iter([100.0, 100.5, 150.0, 151.0, 152.0, 160.0]), iter([1.0, 1.5, 2.0, 2.5])
    both = SimpleNamespace(monotonic=lambda: next(clock), thread_time=lambda: next(used))
    monkeypatch.setattr(tensorboard, 'time', both)
    monkeypatch.setattr(tensorboard, 'draw_matrix', lambda title, matrix: (drawn.append(title), (b'', 1, 1))[1])
    writer = Recorder()
    for iteration in (0, 10, 20, 30):
        tensorboard._pictures(writer, Record(iteration, {}, {'conflict/encoder/cosine': COSINE}))
    # 0.5 s of drawing are 1% of 50 s.
    assert drawn == [f'conflict/encoder/cosine, iteration {iteration}' for iteration in (0, 20)]
