"""Reading black boxes: what was measured last in a run, and what came first where it died."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ding_normmon.core.incident import DenseWindow, Incident
from ding_normmon.diagnose.first_signs import PARAMETERS
from ding_normmon.diagnose.incident_of import incident_of
from ding_normmon.runs.black_box import box_name, is_in_use
from ding_normmon.runs.header import task_names
from ding_normmon.runs.run import RunError
from ding_normmon.runs.slots import (
    EVENT,
    HEADER_BYTES,
    OWN,
    RECORD,
    HeaderError,
    Slot,
    SlotError,
    read_header,
    slots_of,
)

__all__ = ['Box', 'box_files', 'boxes_of', 'incident_of_death', 'is_box_name', 'read_box']

_NORMS = {'parameter_norms': 'norm', 'gradient_norms': 'grad', 'head_gradient_norms': 'grad'}
_MOST_BYTES = 1 << 31
_BEFORE = 256


@dataclass(frozen=True)
class Box:
    """What one rank's black box holds.

    Arguments:
        path: the file.
        rank: whose it is.
        ending: ``'closed'`` in order, ``'running'`` where it is being written, else ``'died'``.
        own: iterations that this rank has measured, ascending.
        window: the steps it holds. Of rank 0 the figures of all ranks under their known names, of another rank what
            that rank alone has measured.
        tasks: global task id to name.
        events: iteration and what happened, in the order in which it did.
        notes: iteration and text of the notes and findings of its steps.
        every: iterations from one watched step to the next, at the end.
        torn: slots that were being written when the process ended, or are damaged.
        warnings: sentences on what cannot be read.
        session: the same for all ranks of one start of the run.
        started: seconds since 1970.
    """

    path: Path
    rank: int
    ending: str
    own: tuple[int, ...] = ()
    window: DenseWindow = field(default_factory=DenseWindow)
    tasks: dict[int, str] = field(default_factory=dict)
    events: tuple[tuple[int, dict[str, Any]], ...] = ()
    notes: tuple[tuple[int, str], ...] = ()
    every: int = 0
    torn: int = 0
    warnings: tuple[str, ...] = ()
    session: str = ''
    started: float = 0.0

    @property
    def last(self) -> int | None:
        """The newest iteration that it holds anything of; None where it is empty."""
        newest = [*self.own[-1:], *self.window.iterations[-1:].tolist()]
        return max(newest, default=None)


def is_box_name(name: str) -> bool:
    """Tell whether a file of this name is a black box of the run's last start.

    >>> is_box_name('black_box-rank0.ring'), is_box_name('black_box-rank0.previous.ring')
    (True, False)
    """
    return name.startswith('black_box-rank') and name.endswith('.ring') and not name.endswith('.previous.ring')


def box_files(path: Path) -> list[Path]:
    """Return the black boxes of a run's last start: those in its folder, or below it where it has none itself.

    What is called so and is no file, such as a pipe or a link to a device, is none.
    """
    if path.is_file():
        return [path]
    for pattern in ('*.ring', '**/*.ring'):
        if found := sorted(file for file in path.glob(pattern) if is_box_name(file.name) and file.is_file()):
            return found
    return []


def boxes_of(path: Path | str) -> list[Box]:
    """Read the black boxes of a run's last start, by rank; see :func:`box_files`.

    Those of an earlier start are left alone, such as that of a rank which the run no longer has.

    Raises:
        RunError: there is none, or none that can be read.
    """
    path = Path(path)
    found = box_files(path)
    if not found:
        raise RunError(f'{path} holds no black box (black_box-rank0.ring); it is written where watch is on')
    boxes, refused = [], []
    for file in found:
        try:
            boxes.append(read_box(file))
        except RunError as error:
            refused.append(str(error))
    if not boxes:
        raise RunError('; '.join(refused))
    # Rank 0 renames what an earlier start has left; a clock may be set back.
    latest = max(boxes, key=lambda box: (box.path.name == box_name(0), box.started)).session
    known = [box for box in boxes if not latest or box.session in ('', latest)]
    first, *others = sorted(known, key=lambda box: (box.rank, str(box.path)))
    refused += [
        f'{box.path.name} is of another start of the run; name the file to read it'
        for box in boxes
        if not any(box is one for one in known)
    ]
    return [replace(first, warnings=(*first.warnings, *refused)), *others]


def read_box(path: Path | str) -> Box:
    """Read one file.

    Raises:
        RunError: it is no black box, of another version, or cannot be read.
    """
    path = Path(path)
    warnings: list[str] = []
    try:
        if not path.is_file():
            raise RunError(f'{path} is no file')
        if path.stat().st_size > _MOST_BYTES:
            raise RunError(f'{path} is larger than any black box')
        running = is_in_use(path)
        data = path.read_bytes()
        try:
            about = read_header(data)
        except HeaderError as error:
            about = {'size': len(data)}
            warnings.append(f'{path.name} {error}, which has the names of the tasks; its steps are read')
    except SlotError as error:
        raise RunError(f'{path} {error}') from error
    except OSError as error:
        raise RunError(f'{path} cannot be read: {error.strerror or error}') from error
    if about.get('size') != len(data):
        warnings.append(f'{path.name} has {len(data)} bytes and should have {about.get("size")}; what is whole is read')
    slots, torn = slots_of(data, HEADER_BYTES)
    if torn:
        warnings.append(f'{path.name}: {torn} torn or damaged slots were skipped')
    events = [(slot.iteration, slot.text) for slot in slots if slot.kind == EVENT and isinstance(slot.text, dict)]
    closed = any('closed' in text for _, text in events[-1:])
    records = [slot for slot in slots if slot.kind == RECORD and _is_record(slot)]
    own = [slot for slot in slots if slot.kind == OWN]
    rows = [(slot.iteration, slot.names, slot.numbers) for slot in records]
    if not rows:
        rows = [(slot.iteration, *_figures_of(slot)) for slot in own if _is_own(slot)]
    window = _window(rows)
    if (left_out := len({row[0] for row in rows}) - len(window.iterations)) > 0:
        warnings.append(
            f'{path.name}: its {left_out} oldest steps have other figures than the newest, and are left out'
        )
    every = [text['watch'] for _, text in events if isinstance(text.get('watch'), int)]
    rank, started = about.get('rank', _rank_in(path.name)), about.get('started')
    return Box(
        path,
        rank if isinstance(rank, int) else 0,
        'running' if running else 'closed' if closed else 'died',
        tuple(sorted({slot.iteration for slot in own})),
        window,
        task_names(about.get('tasks')),
        tuple(events),
        tuple(_notes(records)),
        every[-1] if every else 0,
        torn,
        tuple(warnings),
        str(about.get('session') or ''),
        started if isinstance(started, float) else 0.0,
    )


def _rank_in(name: str) -> int:
    found = re.match(r'black_box-rank(\d{1,6})', name)
    return int(found[1]) if found else 0


def incident_of_death(boxes: Sequence[Box], number: int = 1) -> Incident | None:
    """Return what the black boxes of a run that died tell; None where it did not, or where there is nothing in them."""
    main = next((box for box in boxes if box.rank == 0), boxes[0] if boxes else None)
    dead = [box for box in boxes if box.ending == 'died']
    if main is None or not dead or any(box.ending == 'running' for box in boxes) or not len(main.window.iterations):
        return None
    last = int(main.window.iterations[-1])
    newest = max(box.last or 0 for box in boxes)
    raised = next((text for _, text in reversed(main.events) if 'exception' in text), None)
    how = f'after {raised["exception"]}' if raised else 'without closing: it was killed, or crashed'
    reason = f'The run ended {how}; the newest step in a black box is iteration {newest}.'
    window = DenseWindow(main.window.names, main.window.iterations[-_BEFORE:], main.window.values[-_BEFORE:])
    return incident_of(number, window, last, 'death', reason, main.tasks, every=main.every)


def _is_record(slot: Slot) -> bool:
    names = slot.names
    return isinstance(names, list) and len(names) == len(slot.numbers) and all(isinstance(name, str) for name in names)


def _is_own(slot: Slot) -> bool:
    names = slot.names
    if not isinstance(names, dict):
        return False
    rows, vectors, paths = names.get('rows'), names.get('vectors'), names.get('paths') or {}
    if not isinstance(rows, list) or not isinstance(vectors, list) or not isinstance(paths, dict):
        return False
    if not all(isinstance(entry, list) and len(entry) == 2 and _is_count(entry[1]) for entry in vectors):
        return False
    numbers = 6 * len(rows) + sum(length for _, length in vectors)
    has_paths = all(isinstance(known, list) for known in paths.values())
    return numbers == len(slot.numbers) and has_paths and all(map(_is_key, [*rows, *(key for key, _ in vectors)]))


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_key(key: Any) -> bool:
    if not isinstance(key, list) or len(key) != 4:
        return False
    metric, name, task, part = key
    return all(isinstance(text, str) for text in (metric, name, part)) and (task is None or _is_count(task))


def _figures_of(slot: Slot) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Return names and values of what one rank has measured: norms of its groups, means and extremes of its signals."""
    keys, vectors = slot.names['rows'], slot.names['vectors']
    rows = slot.numbers[: 6 * len(keys)].reshape(-1, 6)
    found: dict[str, float] = {}
    for (metric, name, task, part), row in zip(keys, rows, strict=True):
        count, mean, moment, smallest, largest, nonfinite = row.tolist()
        label = name if task is None else f'{name}_task{task}'
        if nonfinite > 0 and not part:
            family = f'{_NORMS[metric]}/' if metric in _NORMS else ''
            found[f'monitor/nonfinite/{family}{label}'] = nonfinite
        if metric in _NORMS and not part:
            found[f'{_NORMS[metric]}/{label}/_total_norm'] = math.sqrt(max(0.0, moment + count * mean * mean))
        elif metric == 'own_cost' or not count or part.startswith('rank/'):
            continue
        elif smallest == largest or count == 1:
            found[f'{part}/{label}' if part else label] = mean
        else:
            found.update({f'{label}/mean': mean, f'{label}/abs_max': max(abs(smallest), abs(largest))})
    start, paths = 6 * len(keys), slot.names.get('paths') or {}
    for (metric, name, task, part), length in vectors:
        values = slot.numbers[start : start + length]
        start += length
        if metric in _NORMS and part == 'parameters':
            label = name if task is None else f'{name}_task{task}'
            known = paths.get(label, [])
            for path, value in zip(known if len(known) == length else range(length), values.tolist(), strict=True):
                found[f'{PARAMETERS}{_NORMS[metric]}/{label}/{path}'] = math.sqrt(max(0.0, value))
    return list(found), np.array(list(found.values()))


def _window(rows: Sequence[tuple[int, Sequence[str], npt.NDArray[np.float64]]]) -> DenseWindow:
    """Return steps as one table; of two of the same iteration the later one counts.

    Steps that have nothing in common would make a table of any size: the oldest of those are left out.
    """
    latest = {iteration: (names, values) for iteration, names, values in rows}
    most = 4 * sum(len(values) for _, values in latest.values())
    index: dict[str, int] = {}
    iterations: list[int] = []
    for iteration in sorted(latest, reverse=True):
        wider = {**index}
        for name in latest[iteration][0]:
            wider.setdefault(name, len(wider))
        if len(wider) * (len(iterations) + 1) > most:
            break
        index = wider
        iterations.append(iteration)
    iterations.reverse()
    table = np.full((len(iterations), len(index)), np.nan)
    for row, iteration in enumerate(iterations):
        names, values = latest[iteration]
        table[row, [index[name] for name in names]] = values
    return DenseWindow(tuple(index), np.array(iterations, np.int64), table)


def _notes(records: Sequence[Slot]) -> Iterator[tuple[int, str]]:
    for slot in records:
        if isinstance(slot.text, dict):
            notes, findings = slot.text.get('notes'), slot.text.get('findings')
            for sentence in findings if isinstance(findings, list) else ():
                yield slot.iteration, str(sentence)
            for name, text in notes.items() if isinstance(notes, dict) else ():
                yield slot.iteration, f'{name}: {text}'
