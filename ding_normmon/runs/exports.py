"""A run as one file of another kind, and back."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ding_normmon.runs.run import Note, Run, RunError, Series

__all__ = ['READERS', 'WRITERS']

_COLUMNS = ('name', 'iteration', 'time', 'value')


def _columns(run: Run) -> dict[str, Any]:
    series = run.series
    return {
        'name': [name for name, points in series.items() for _ in range(len(points.iterations))],
        'iteration': np.concatenate([points.iterations for points in series.values()] or [np.zeros(0, np.int64)]),
        'time': np.concatenate([points.times for points in series.values()] or [np.zeros(0)]),
        'value': np.concatenate([points.values for points in series.values()] or [np.zeros(0)]),
    }


def _write_parquet(run: Run, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = _columns(run)
    columns['name'] = pa.array(columns['name'], pa.string()).dictionary_encode()
    header = json.dumps({'tasks': run.tasks, 'configuration': run.configuration}, default=str)
    table = pa.table(columns).replace_schema_metadata({'ding_normmon': header})
    pq.write_table(table, path, compression='zstd')


def _write_csv(run: Run, path: Path) -> None:
    columns = _columns(run)
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        rows = zip(*(columns[name] if name == 'name' else columns[name].tolist() for name in _COLUMNS), strict=True)
        writer.writerows(rows)


def _write_json(run: Run, path: Path) -> None:
    import dataclasses

    content = {
        'tasks': run.tasks,
        'configuration': run.configuration,
        'series': {
            name: {
                'iterations': points.iterations.tolist(),
                'values': points.values.tolist(),
                'times': points.times.tolist(),
            }
            for name, points in run.series.items()
        },
        'matrices': {
            name: {
                'iterations': stack.iterations.tolist(),
                'values': stack.values.tolist(),
                'rows': list(stack.rows),
                'columns': list(stack.columns),
                'labels': [[key, label] for key, label in stack.labels.items()],
            }
            for name, stack in run.matrices.items()
        },
        'notes': [dataclasses.asdict(note) for note in run.notes],
        'findings': [dataclasses.asdict(finding) for finding in run.findings],
    }
    path.write_text(json.dumps(content, default=str), encoding='utf-8')


def _read_parquet(path: Path) -> Run:
    import pyarrow.parquet as pq

    from ding_normmon.runs.format import header_of
    from ding_normmon.runs.read_history import series_of_rows

    table = pq.read_table(path)
    _check(path, table.column_names)
    names = table['name'].to_pylist()
    index: dict[str, int] = {}
    codes = np.array([index.setdefault(name, len(index)) for name in names], np.int64)
    points = (table[name].to_numpy() for name in ('iteration', 'value', 'time'))
    header = header_of(table.schema)
    tasks = {int(task_id): str(name) for task_id, name in header.get('tasks', {}).items()}
    return Run(
        path, series_of_rows(list(index), codes, *points), tasks=tasks, configuration=header.get('configuration', {})
    )


def _read_csv(path: Path) -> Run:
    from ding_normmon.runs.read_history import series_of_rows

    index: dict[str, int] = {}
    rows: list[tuple[int, int, float, float]] = []
    with path.open(newline='', encoding='utf-8') as file:
        reader = csv.reader(file)
        _check(path, next(reader, []))
        warnings = []
        for row in reader:
            try:
                name, iteration, time, value = row
                rows.append((index.setdefault(name, len(index)), int(iteration), float(value), float(time)))
            except ValueError:
                warnings.append(f'{path.name}: line {reader.line_num} is no point')
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    codes, iterations = np.array(columns[0], np.int64), np.array(columns[1], np.int64)
    series = series_of_rows(list(index), codes, iterations, np.array(columns[2]), np.array(columns[3]))
    return Run(path, series, warnings=warnings)


def _read_json(path: Path) -> Run:
    from ding_normmon.runs.format import finding_of
    from ding_normmon.runs.read_history import matrix_series

    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        series = {
            name: Series(
                np.array(points['iterations'], np.int64),
                np.array(points['values'], np.float64),
                np.array(points['times'], np.float64),
            )
            for name, points in content['series'].items()
        }
        matrices = {}
        for name, stack in content['matrices'].items():
            axes = {key: stack[key] for key in ('rows', 'columns', 'labels')}
            points = {
                iteration: {'values': values, **axes}
                for iteration, values in zip(stack['iterations'], stack['values'], strict=True)
            }
            matrices[name] = matrix_series(points)
        return Run(
            path,
            series,
            matrices,
            tasks={int(task_id): name for task_id, name in content['tasks'].items()},
            configuration=content['configuration'],
            notes=[Note(**note) for note in content['notes']],
            findings=[finding_of(json.dumps(finding)) for finding in content['findings']],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f'{path} is no export of a run: {type(error).__name__}: {error}') from error


def _check(path: Path, columns: list[str]) -> None:

    if not set(_COLUMNS) <= set(columns):
        raise RunError(f'{path} is no export of a run: it has the columns {", ".join(columns)}')


WRITERS: dict[str, Callable[[Run, Path], None]] = {'csv': _write_csv, 'json': _write_json, 'parquet': _write_parquet}
"""By the name of the format."""

READERS: dict[str, Callable[[Path], Run]] = {'.csv': _read_csv, '.json': _read_json, '.parquet': _read_parquet}
"""By the end of the file's name."""
