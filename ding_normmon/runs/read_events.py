"""Reads a run from TensorBoard's event files, of any program."""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from tensorboardX.proto.event_pb2 import Event, SessionLog

from ding_normmon.core.metric_names import task_in
from ding_normmon.destinations.tensorboard.frames import CHECK_BYTES, read_frames
from ding_normmon.destinations.tensorboard.tags import figure_of
from ding_normmon.metrics import DECLARED
from ding_normmon.runs.header import LARGEST_TASK
from ding_normmon.runs.read_history import series_of_rows
from ding_normmon.runs.run import Run, RunError, Series

__all__ = ['EventFiles', 'event_files', 'read_events']

_PREFIXES = ('learner_iter/', 'learner/', 'train/')
"""Of curves over learner iterations; the same figures over environment steps keep their tags."""


def event_files(folder: Path) -> list[Path]:
    """Return the event files in a folder and below, in the order in which they were begun."""
    found = [path for path in folder.rglob('*tfevents*') if path.is_file()]
    return sorted(found, key=lambda path: (_begun(path), str(path)))


def _begun(path: Path) -> int:
    found = re.search(r'tfevents\.(\d{1,18})', path.name)
    return int(found.group(1)) if found else 0


def read_events(path: Path, files: Iterable[Path], is_beside_history: bool = False) -> Run:
    """Read event files as one run; of points that are there twice the later file's counts.

    What TensorBoard drops is dropped: points behind the step at which a writer began anew (``purge_step``). Curves of
    one name in several folders are curves of their own, as those of ``add_scalars`` are, each with its folder's name.

    Arguments:
        path: the run.
        files: its event files, in the order in which they were begun.
        is_beside_history: whether the monitor's own figures are in a history file, so that others' keep their tags.

    Raises:
        RunError: the folders hold runs of their own.
    """
    return EventFiles()(path, files, is_beside_history)


class EventFiles:
    """Event files of one run that are read repeatedly; each time only what is new is read."""

    def __init__(self) -> None:
        self._folders: dict[Path, _Folder] = {}

    def __call__(self, path: Path, files: Iterable[Path], is_beside_history: bool) -> Run:
        """Return the run that they hold now; see :func:`read_events`."""
        by_folder: dict[Path, list[Path]] = {}
        for file in files:
            by_folder.setdefault(file.parent, []).append(file)
        known, self._folders = self._folders, {}
        warnings: list[str] = []
        for folder, inside in by_folder.items():
            found = known.get(folder)
            self._folders[folder] = found = found if found and found.goes_on(inside) else _Folder()
            for file in inside:
                try:
                    wrong = found.read(file)
                except OSError as error:
                    wrong = str(error)
                if wrong:
                    warnings.append(f'{file.name} cannot be read as a whole: {wrong}')
        return _run_of(path, self._folders, is_beside_history, warnings)


def _run_of(path: Path, folders: Mapping[Path, _Folder], is_beside_history: bool, warnings: list[str]) -> Run:
    series = _told_apart(path, {folder: found.series() for folder, found in folders.items()})
    if not is_beside_history:
        series = _renamed(series)
    tasks = sorted({task for name in series if (task := task_in(name)) is not None and task <= LARGEST_TASK})
    return Run(path, series, tasks={task_id: f'task {task_id}' for task_id in tasks}, warnings=warnings)


@dataclass
class _Place:
    """How far a file was read.

    Arguments:
        identity: of the file.
        size: of what was read of it.
        end: position behind the last whole event.
        check: of the bytes before that.
        damaged: parts that could not be read.
        is_empty: whether it had no event.
    """

    identity: tuple[int, int]
    size: int = 0
    end: int = 0
    check: bytes = b''
    damaged: int = 0
    is_empty: bool = True


_CHECKED = 64
"""Bytes by which a file is known again."""


@dataclass
class _Folder:
    """The points of the event files in one folder, in the order in which they were written."""

    index: dict[str, int] = field(default_factory=dict)
    codes: array[int] = field(default_factory=lambda: array('q'))
    steps: array[int] = field(default_factory=lambda: array('q'))
    values: array[float] = field(default_factory=lambda: array('d'))
    times: array[float] = field(default_factory=lambda: array('d'))
    restarts: list[tuple[int, int]] = field(default_factory=list)
    """How many points there were, and the step from which on they are abandoned."""
    places: dict[Path, _Place] = field(default_factory=dict)

    def goes_on(self, files: Sequence[Path]) -> bool:
        """Tell whether the files that were read are as they were, but for more at the end of the last of them."""
        known = list(self.places)
        if known != list(files[: len(known)]):
            return False
        for file, place in self.places.items():
            status = file.stat()
            if (status.st_dev, status.st_ino) != place.identity or status.st_size < place.size or place.damaged:
                return False
            if file != known[-1] and status.st_size > place.size:
                return False
            with file.open('rb') as opened:
                opened.seek(max(0, place.end - _CHECKED))
                if opened.read(min(place.end, _CHECKED)) != place.check:
                    return False
        return True

    def read(self, file: Path) -> str:
        """Read the intact events that a file has behind what was read; return what is wrong with the others."""
        status = file.stat()
        place = self.places.setdefault(file, _Place((status.st_dev, status.st_ino)))
        with file.open('rb') as opened:
            opened.seek(max(0, place.end - _CHECKED))
            before = opened.read(min(place.end, _CHECKED))
            data = opened.read()
        is_torn, end = False, 0
        for frame in read_frames(data):
            if not frame.is_intact:
                place.damaged += not frame.is_torn
                is_torn |= frame.is_torn
                continue
            end = frame.stop + CHECK_BYTES
            try:
                event = Event.FromString(data[frame.start : frame.stop])
            except DecodeError:
                place.damaged += 1
                continue
            place.is_empty = False
            self.add(event)
        place.size = place.end + len(data)
        place.end += end
        place.check = (before + data[:end])[-_CHECKED:]
        if place.damaged:
            return f'{place.damaged} parts are damaged; what is before and behind is here'
        # A file that is being written to may end anywhere.
        return 'it holds no event' if is_torn and place.is_empty else ''

    def add(self, event: Event) -> None:
        """Take the points of one event."""
        if event.HasField('session_log') and event.session_log.status == SessionLog.START:
            self.restarts.append((len(self.steps), event.step))
        for value in event.summary.value:
            number, name = _number(value), figure_of(value.tag)
            if number is not None and name is not None:
                self.codes.append(self.index.setdefault(name, len(self.index)))
                self.steps.append(event.step)
                self.values.append(number)
                self.times.append(event.wall_time)

    def series(self) -> dict[str, Series]:
        """Return the curves, without what was abandoned."""
        columns: list[npt.NDArray[Any]] = [
            np.array(self.codes, np.int64),
            np.array(self.steps, np.int64),
            np.array(self.values, np.float64),
            np.array(self.times, np.float64),
        ]
        kept = np.ones(len(self.steps), bool)
        for number, step in self.restarts:
            kept[:number] &= columns[1][:number] < step
        return series_of_rows(list(self.index), *(column[kept] for column in columns))


def _told_apart(path: Path, folders: Mapping[Path, Mapping[str, Series]]) -> dict[str, Series]:
    """Return the curves of all folders under names that are theirs alone.

    Raises:
        RunError: folders beside each other hold curves of the same names: they are runs.
    """
    folders = {folder: series for folder, series in folders.items() if series}
    holders: dict[str, list[Path]] = {}
    for folder, series in folders.items():
        for name in series:
            holders.setdefault(name, []).append(folder)
    found: dict[str, Series] = {}
    for name, sharing in holders.items():
        if len(sharing) == 1:
            found[name] = folders[sharing[0]][name]
            continue
        strangers = [folder for folder in sharing if folder != path and not _is_part(folder, path)]
        if strangers:
            names = ', '.join(str(folder) for folder in sharing[:4])
            raise RunError(f'{path} holds {len(sharing)} runs: name one of them, such as {names}')
        for folder in sharing:
            found[_name_below(folder, path, name)] = folders[folder][name]
    return found


def _is_part(folder: Path, path: Path) -> bool:
    """Tell whether a folder of event files belongs to a run above it, whose writer has made it for single curves."""
    above = folder.parent
    while above != above.parent and (above == path or path in above.parents):
        if any('tfevents' in entry.name for entry in above.iterdir() if entry.is_file()):
            return True
        above = above.parent
    return False


def _name_below(folder: Path, path: Path, name: str) -> str:
    """Return what a curve of a folder below the run is called.

    Example:
        >>> run = Path('run')
        >>> [_name_below(run / below, run, 'loss') for below in ('', 'loss/task0', 'loss_task0', 'seed1')]
        ['loss', 'loss/task0', 'loss_task0', 'seed1/loss']
    """
    below = folder.relative_to(path).as_posix()
    if below == '.':
        return name
    return below if below.startswith((name, name.replace('/', '_'))) else f'{below}/{name}'


_DOUBLE, _FLOAT, _INTS = 2, 1, {3: '<i', 9: '<q'}
_TYPES = {_FLOAT: '<f', _DOUBLE: '<d', **_INTS}


def _number(value: Any) -> float | None:
    """Return a scalar, however it was written; None for pictures, texts and the like."""
    kind = value.WhichOneof('value')
    if kind == 'simple_value':
        return float(value.simple_value)
    if kind != 'tensor' or value.metadata.plugin_data.plugin_name not in ('', 'scalars'):
        return None
    # Only a single number is looked at: a shape may say that there are more than there is memory for.
    tensor = value.tensor
    if any(dimension.size != 1 for dimension in tensor.tensor_shape.dim) or tensor.dtype not in _TYPES:
        return None
    form = _TYPES[tensor.dtype]
    if len(tensor.tensor_content) == struct.calcsize(form):
        return float(struct.unpack(form, tensor.tensor_content)[0])
    numbers = next(_listed(tensor), None)
    return None if numbers is None else float(numbers)


def _listed(tensor: Any) -> Iterator[float]:
    for numbers in (tensor.float_val, tensor.double_val, tensor.int_val, tensor.int64_val):
        if len(numbers) == 1:
            yield numbers[0]


def _renamed(series: Mapping[str, Series]) -> dict[str, Series]:
    """Return curves of DI-engine's loggers under the monitor's names, where those are not in use.

    >>> list(_renamed({'learner_iter/grad/encoder/_total_norm_avg': None, 'learner_iter/cur_lr_avg': None}))
    ['grad/encoder/_total_norm', 'learner_iter/cur_lr_avg']
    """
    found: dict[str, Series] = {}
    for tag, curve in series.items():
        name = _own_name(tag)
        found[tag if name in series or name in found else name] = curve
    return found


def _own_name(tag: str) -> str:
    for prefix in _PREFIXES:
        if tag.startswith(prefix):
            name = tag.removeprefix(prefix).removesuffix('_avg')
            if DECLARED.describe(name) is not None:
                return name
    return tag
