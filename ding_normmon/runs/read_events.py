"""A run from TensorBoard's event files, whoever wrote them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ding_normmon.core.metric_names import task_in
from ding_normmon.metrics import DECLARED
from ding_normmon.runs.read_history import series_of_rows
from ding_normmon.runs.run import Run

__all__ = ['event_files', 'read_events']

_PREFIXES = ('learner_iter/', 'learner_step/', 'learner/', 'train/')


def event_files(folder: Path) -> list[Path]:
    """Return the event files in a folder and below, in the order in which they were begun."""
    found = [path for path in folder.rglob('*tfevents*') if path.is_file()]
    return sorted(found, key=lambda path: (_begun(path), str(path)))


def _begun(path: Path) -> int:
    found = re.search(r'tfevents\.(\d+)', path.name)
    return int(found.group(1)) if found else 0


def read_events(path: Path, files: Iterable[Path]) -> Run:
    """Read event files as one run; of points that are there twice the later file's counts.

    Arguments:
        path: the run.
        files: its event files, in the order in which they were begun.
    """
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    index: dict[str, int] = {}
    codes: list[int] = []
    steps: list[int] = []
    values: list[float] = []
    times: list[float] = []
    warnings = []
    for file in files:
        known: set[int] = set()
        try:
            for raw in RawEventFileLoader(str(file)).Load():
                event = Event.FromString(raw)
                for value in event.summary.value:
                    number = _number(value)
                    if number is None:
                        continue
                    code = index.setdefault(_own_name(value.tag), len(index))
                    known.add(code)
                    codes.append(code)
                    steps.append(event.step)
                    values.append(number)
                    times.append(event.wall_time)
        except Exception as error:
            # TensorBoard's reader has no exception of its own for what it cannot read.
            warnings.append(f'{file.name} cannot be read to its end: {type(error).__name__}: {error}')
    names = list(index)
    columns = (np.array(codes, np.int64), np.array(steps, np.int64), np.array(values), np.array(times))
    series = series_of_rows(names, *columns)
    tasks = sorted({task for name in series if (task := task_in(name)) is not None})
    return Run(path, series, tasks={task_id: f'task {task_id}' for task_id in tasks}, warnings=warnings)


def _number(value: object) -> float | None:
    """Return a scalar, however it was written; None for pictures, texts and the like."""
    kind = value.WhichOneof('value')  # type: ignore[attr-defined]
    if kind == 'simple_value':
        return float(value.simple_value)  # type: ignore[attr-defined]
    if kind == 'tensor' and value.metadata.plugin_data.plugin_name in ('', 'scalars'):  # type: ignore[attr-defined]
        from tensorboard.util import tensor_util

        array = tensor_util.make_ndarray(value.tensor)  # type: ignore[attr-defined]
        if array.size == 1 and array.dtype.kind in 'fiu':
            return float(array.reshape(()))
    return None


def _own_name(tag: str) -> str:
    """Return the name that a tag of DI-engine's loggers stands for, where that is one of ours.

    >>> _own_name('learner_iter/grad/encoder/_total_norm_avg'), _own_name('learner_iter/cur_lr_avg')
    ('grad/encoder/_total_norm', 'learner_iter/cur_lr_avg')
    """
    for prefix in _PREFIXES:
        if tag.startswith(prefix):
            name = tag.removeprefix(prefix).removesuffix('_avg')
            if DECLARED.describe(name) is not None:
                return name
    return tag
