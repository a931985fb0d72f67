"""History files that tests damage and read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ding_normmon.core.destination import RunDescription
from ding_normmon.core.finding import Finding
from ding_normmon.core.record import Matrix, Record
from ding_normmon.runs import Run
from ding_normmon.runs.history_file import FILE_NAME, HistoryFile

__all__ = ['points', 'sample', 'write', 'write_starts']


def sample(iteration: int) -> Record:
    """Return a record with scalars of which some are new, a matrix, a note and a finding."""
    scalars = {'a': float(iteration), **{f'b{number}': iteration / 7 for number in range(iteration % 4)}}
    matrix = Matrix(np.array([[1.0, np.nan], [-0.5, 1.0]]), (0, 1), (0, 1), {0: 'Pong', 1: 'Qbert'})
    finding = Finding('odd', 'warning', 1, iteration, 'Odd.', 'Wait.', (1,), ('Qbert',), 'head', {'x': 0.1})
    return Record(
        iteration,
        scalars,
        {'conflict/encoder/cosine': matrix} if iteration % 3 == 0 else {},
        {'note': f'at {iteration}'} if iteration % 5 == 0 else {},
        (finding,) if iteration % 7 == 0 else (),
    )


def write(path: Path, records: list[Record], begins_at: int | None = None, close: bool = True) -> HistoryFile:
    """Append records to a history file, as one start of a run does."""
    file = HistoryFile(path, {'seed': 3})
    file.begin(RunDescription({0: 'Pong', 1: 'Qbert'}, begins_at=begins_at))
    for record in records:
        file.publish(record)
    if close:
        file.close()
    return file


def write_starts(folder: Path, starts: int = 3, records: int = 20) -> bytes:
    """Write a history of several starts that go on behind each other; return its bytes."""
    path = folder / FILE_NAME
    for start in range(starts):
        write(path, [sample(start * records + number) for number in range(records)])
    return path.read_bytes()


def points(run: Run, name: str = 'a') -> dict[int, float]:
    """Return one curve by iteration."""
    series = run.series[name]
    return dict(zip(series.iterations.tolist(), series.values.tolist(), strict=True))
