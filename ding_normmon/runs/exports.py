"""A run as one file of another kind, and back."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ding_normmon.core.incident import Incident
from ding_normmon.runs.parts import Doubts
from ding_normmon.runs.plain_incident import IncidentReader, plain_incident
from ding_normmon.runs.run import Note, Run, RunError, Series
from ding_normmon.runs.strict_json import dumps, number

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
    incidents = [plain_incident(incident) for incident in run.incidents]
    header = dumps({'tasks': run.tasks, 'configuration': run.configuration, 'incidents': incidents})
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
        'incidents': [plain_incident(incident) for incident in run.incidents],
    }
    path.write_text(dumps(content), encoding='utf-8')


def _read_parquet(path: Path) -> Run:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ding_normmon.runs.format import HEADER
    from ding_normmon.runs.header import Header, read_header
    from ding_normmon.runs.read_history import series_of_rows

    try:
        # Names are read once each: a long one may be that of every row.
        with pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=['name']) as file:
            _check(path, file.schema_arrow.names)
            for name, known in _types().items():
                kind = file.schema_arrow.field(name).type
                if kind not in known:
                    raise RunError(f'{path} is no export of a run: its column {name} is of the type {str(kind)[:100]}')
            # Any number of rows fits into a few compressed bytes.
            size = path.stat().st_size
            whole = sum(file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups))
            if max(file.metadata.num_rows, whole // 32) > _ROWS + _ROWS_PER_BYTE * size:
                raise RunError(
                    f'{path} holds {file.metadata.num_rows} rows in {size} bytes, which is no export of a run'
                )
            table = file.read(columns=list(_COLUMNS))
            said = (file.schema_arrow.metadata or {}).get(HEADER)
            header = read_header(said) or Header()
        table = table.drop_null()
        index: dict[str, int] = {}
        codes = [np.zeros(0, np.int64)]
        for chunk in table['name'].chunks:
            # A dictionary may hold a name twice.
            known = [index.setdefault(str(name), len(index)) for name in chunk.dictionary.to_pylist()]
            codes.append(np.array(known, np.int64)[chunk.indices.to_numpy()])
    except pa.ArrowException as error:
        raise RunError(f'{path} cannot be read ({type(error).__name__}: {error})') from error
    points = (table[name].to_numpy() for name in ('iteration', 'value', 'time'))
    series = series_of_rows(list(index), np.concatenate(codes), *points)
    doubts = Doubts()
    content = {} if header == Header() else json.loads(said or b'{}')
    incidents = _incidents(content.get('incidents'), doubts)
    run = Run(path, series, tasks=dict(header.tasks), configuration=dict(header.configuration), incidents=incidents)
    run.warnings.extend(f'{path.name}: {sentence}' for sentence in doubts.sentences())
    return run


def _types() -> dict[str, list[Any]]:
    """Return which types a column may have, by its name."""
    import pyarrow as pa

    names = [pa.dictionary(pa.int32(), kind) for kind in (pa.string(), pa.large_string())]
    return {'name': names, 'iteration': [pa.int64()], 'time': [pa.float64()], 'value': [pa.float64()]}


def _incidents(entries: Any, doubts: Doubts) -> list[Incident]:
    reader = IncidentReader(doubts)
    for entry in entries or ():
        reader.add(entry)
    return reader.incidents()


def _every(entries: Any, read: Callable[[Any], Any], what: str, doubts: Doubts) -> list[Any]:
    """Return what can be read of several entries, which depend on each other in nothing."""
    good = []
    for entry in entries or ():
        try:
            good.append(read(entry))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            doubts.add(f'{what} cannot be read', 1)
    return good


_ROWS, _ROWS_PER_BYTE = 2_000_000, 64


def _read_csv(path: Path) -> Run:
    from ding_normmon.runs.read_history import series_of_rows

    index: dict[str, int] = {}
    rows: list[tuple[int, int, float, float]] = []
    odd: list[int] = []
    with path.open(newline='', encoding='utf-8-sig', errors='replace') as file:
        reader = csv.reader(file)
        try:
            _check(path, next(reader, []))
        except csv.Error as error:
            raise RunError(f'{path} is no export of a run: line {reader.line_num}: {error}') from error
        while True:
            try:
                name, iteration, time, value = next(reader)
                point = _iteration(iteration), float(value), float(time)
            except StopIteration:
                break
            except (ValueError, csv.Error):
                odd.append(reader.line_num)
            else:
                rows.append((index.setdefault(name, len(index)), *point))
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    codes, iterations = np.array(columns[0], np.int64), np.array(columns[1], np.int64)
    series = series_of_rows(list(index), codes, iterations, np.array(columns[2]), np.array(columns[3]))
    warnings = [f'{path.name}: {len(odd)} lines are no points, the first of them line {odd[0]}'] if odd else []
    return Run(path, series, warnings=warnings)


def _iteration(text: str) -> int:
    # Digits beyond that are no iteration, and reading them takes time.
    if len(text) > 20:
        raise ValueError('too many digits')
    value = int(text)
    if abs(value) >= 1 << 63:
        raise ValueError('too large')
    return value


def _read_json(path: Path) -> Run:
    from ding_normmon.runs.header import task_names
    from ding_normmon.runs.parts import finding_from, matrix_from, matrix_series

    doubts = Doubts()

    def every(entries: Any, read: Callable[[Any], Any], what: str) -> list[Any]:
        return _every(entries, read, what, doubts)

    def matrices(entry: tuple[str, Any]) -> tuple[str, Any]:
        name, stack = entry
        axes = {key: stack[key] for key in ('rows', 'columns', 'labels')}
        values = zip(stack['iterations'], stack['values'], strict=True)
        return name, matrix_series({int(at): matrix_from({'values': value, **axes}) for at, value in values})

    try:
        content = json.loads(path.read_text(encoding='utf-8-sig'))
        series = dict(every(content['series'].items(), _json_series, 'series'))
        return Run(
            path,
            series,
            dict(every((content.get('matrices') or {}).items(), matrices, 'matrices')),
            tasks=task_names(content.get('tasks')),
            configuration=content['configuration'] if isinstance(content.get('configuration'), dict) else {},
            notes=every(content.get('notes'), _json_note, 'notes'),
            findings=[finding for finding, _ in every(content.get('findings'), finding_from, 'findings')],
            incidents=_incidents(content.get('incidents'), doubts),
            warnings=[f'{path.name}: {sentence}' for sentence in doubts.sentences()],
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise RunError(f'{path} is no export of a run: {type(error).__name__}: {str(error)[:200]}') from error


def _json_series(entry: tuple[str, Any]) -> tuple[str, Series]:
    from ding_normmon.runs.parts import iteration_from
    from ding_normmon.runs.read_history import series_of_rows

    name, points = entry
    iterations = np.array([iteration_from(value) for value in points['iterations']], np.int64)
    values, times = (np.array([number(value) for value in points[key]], np.float64) for key in ('values', 'times'))
    if not len(iterations) == len(values) == len(times):
        raise ValueError('columns of different lengths')
    return name, series_of_rows([name], np.zeros(len(iterations), np.int64), iterations, values, times)[name]


def _json_note(content: Any) -> Note:
    from ding_normmon.runs.parts import iteration_from

    return Note(iteration_from(content['iteration']), str(content['name']), str(content['text']))


def _check(path: Path, columns: list[str]) -> None:
    if not set(_COLUMNS) <= set(columns):
        raise RunError(f'{path} is no export of a run: it has the columns {", ".join(columns)[:200]}')


WRITERS: dict[str, Callable[[Run, Path], None]] = {'csv': _write_csv, 'json': _write_json, 'parquet': _write_parquet}
"""By the name of the format."""

READERS: dict[str, Callable[[Path], Run]] = {'.csv': _read_csv, '.json': _read_json, '.parquet': _read_parquet}
"""By the end of the file's name."""
