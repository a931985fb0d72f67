"""Recorded runs as small files: one row per metric, numbers rounded to what a rule can see."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.faults.scenarios import Scenario
from ding_normmon.core.metric_names import task_in, without_task
from ding_normmon.core.record import Record
from ding_normmon.runs import MatrixSeries, Run, Series

__all__ = ['load_run', 'save_run']

_MATRIX = 'matrix:'
_UNMEASURED = ('monitor/cost/',)
"""What differs from machine to machine and is not kept."""

_EXACT = ('data/', 'embeddings/obs')
"""What rules compare to the last bit: rounded, different batches would look the same."""


def _is_kept(name: str) -> bool:
    return not name.startswith(_UNMEASURED)


def _named(name: str, scenario: Scenario) -> str:
    """Return a metric's name as a single-task policy has it where there is one task."""
    return name if len(scenario.names) > 1 or task_in(name) is None else without_task(name)


def save_run(path: Path, scenario: Scenario, records: Sequence[Record], mantissa_bits: int = 10) -> None:
    """Write the records of a run; the file is there when it is complete.

    Arguments:
        path: an ``.npz`` file.
        scenario: what run it was.
        records: in the order of iterations.
        mantissa_bits: bits of a value that are kept, a relative error of 2^-(bits + 1); of data all of them are.
    """
    columns: dict[str, npt.NDArray[np.float32]] = {}
    shapes: dict[str, list[list[int | str]]] = {}
    for index, record in enumerate(records):
        values = {_named(name, scenario): value for name, value in record.scalars.items() if _is_kept(name)}
        for name, matrix in record.matrices.items():
            # Where tasks leave, the matrix shrinks; the run keeps those of the first shape.
            if shapes.setdefault(name, [list(matrix.rows), list(matrix.columns)])[0] != list(matrix.rows):
                continue
            for position, value in enumerate(np.ravel(matrix.values).tolist()):
                values[f'{_MATRIX}{name}:{position}'] = value
        for name, value in values.items():
            if name not in columns:
                columns[name] = np.full(len(records), np.nan, np.float32)
            columns[name][index] = value
    # What was not measured is null; NaN is a measured NaN.
    measured = {name: np.zeros(len(records), bool) for name in columns}
    for index, record in enumerate(records):
        for name in record.scalars:
            if _named(name, scenario) in measured and _is_kept(name):
                measured[_named(name, scenario)][index] = True
        for name in record.matrices:
            for column in columns:
                if column.startswith(f'{_MATRIX}{name}:'):
                    measured[column][index] = True
    names = sorted(columns)
    stacked = np.stack([columns[name] for name in names])
    is_exact = np.array([name.startswith(_EXACT) for name in names])
    values = np.where(is_exact[:, None], stacked, _rounded(stacked, mantissa_bits))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix('.unfinished')
    with unfinished.open('wb') as file:
        np.savez_compressed(
            file,
            description=json.dumps({'scenario': asdict(scenario), 'names': names, 'matrices': shapes}),
            iterations=np.array([record.iteration for record in records], np.int32),
            # Bytes of the same place value beside each other compress to half of what whole numbers do.
            values=np.moveaxis(values.view(np.uint8).reshape(*values.shape, 4), -1, 0),
            measured=np.packbits(np.stack([measured[name] for name in names])),
        )
    os.replace(unfinished, path)


def _rounded(values: npt.NDArray[np.float32], bits: int) -> npt.NDArray[np.float32]:
    with np.errstate(invalid='ignore'):
        mantissa, exponent = np.frexp(values)
        return np.ldexp(np.rint(mantissa * 2 ** (bits + 1)) / 2 ** (bits + 1), exponent).astype(np.float32)


def load_run(path: Path) -> tuple[Scenario, Run]:
    """Read a recorded run."""
    with np.load(path) as stored:
        description = json.loads(str(stored['description']))
        iterations = stored['iterations'].astype(np.int64)
        values = np.ascontiguousarray(np.moveaxis(stored['values'], 0, -1)).view(np.float32)[..., 0]
        measured = np.unpackbits(stored['measured'], count=values.size).reshape(values.shape).astype(bool)
    lists = {key: tuple(value) for key, value in description['scenario'].items() if isinstance(value, list)}
    scenario = Scenario(**{**description['scenario'], **lists})
    shapes = description['matrices']
    series, parts = {}, {}
    for name, row, valid in zip(description['names'], values, measured, strict=True):
        points = row[valid].astype(np.float64)
        if name.startswith(_MATRIX):
            parts[name] = (iterations[valid], points)
        else:
            series[name] = Series(iterations[valid], points, iterations[valid].astype(np.float64))
    tasks = dict(enumerate(scenario.names)) if len(scenario.names) > 1 else {}
    matrices = {}
    for name, (rows, columns) in shapes.items():
        cells = [parts[f'{_MATRIX}{name}:{position}'] for position in range(len(rows) * len(columns))]
        stack = np.stack([points for _, points in cells], axis=1).reshape(-1, len(rows), len(columns))
        matrices[name] = MatrixSeries(cells[0][0], stack, tuple(rows), tuple(columns), tasks)
    return scenario, Run(path=path, series=series, matrices=matrices, tasks=tasks)


def thin_runs(source: Path, target: Path, every: int) -> int:
    """Write every so many-th iteration of all recordings of a folder to another; return how many there are."""
    written = 0
    for path in sorted(source.glob('*.npz')):
        scenario, run = load_run(path)
        save_run(target / path.name, scenario, [record for record in run.records() if record.iteration % every == 0])
        written += 1
    return written
