"""History files that tests damage and read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ding_normmon.core.destination import RunDescription
from ding_normmon.core.finding import Finding
from ding_normmon.core.record import Matrix, Record
from ding_normmon.runs import Run, read_run
from ding_normmon.runs.check import check_run, repair
from ding_normmon.runs.history_file import FILE_NAME, HistoryFile

__all__ = ['assert_repaired', 'points', 'sample', 'write', 'write_starts']


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


def assert_repaired(path: Path) -> None:
    """Assert that the clean copy of a damaged file is whole, and shows what readers show of the file."""
    before = read_run(path)
    copy, records = repair(path)
    after = read_run(copy)
    [checked] = check_run(copy)
    assert (checked.errors, after.warnings) == ([], [])
    assert f'{records} records' in checked.facts[0]
    assert set(after.series) == set(before.series)
    for name, series in before.series.items():
        for column in ('iterations', 'values', 'times'):
            np.testing.assert_array_equal(getattr(after.series[name], column), getattr(series, column))
    # Their order in what was lost is lost.
    assert set(after.matrices) == set(before.matrices)
    for name, stack in before.matrices.items():
        np.testing.assert_array_equal(after.matrices[name].iterations, stack.iterations)
        np.testing.assert_array_equal(after.matrices[name].values, stack.values)
    for what in ('tasks', 'configuration', 'rules', 'about', 'notes'):
        assert getattr(after, what) == getattr(before, what), what
    # NaN is not equal to itself.
    assert repr(after.findings) == repr(before.findings)
    assert repr(after.incidents) == repr(before.incidents)
    copy.unlink()
