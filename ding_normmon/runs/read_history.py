"""A run from its history file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ding_normmon.core.finding import Finding
from ding_normmon.runs.format import FINDING, MATRIX, NOTE, SCALAR, finding_of, header_of
from ding_normmon.runs.run import MatrixSeries, Note, Run, Series
from ding_normmon.runs.streams import read_batches

__all__ = ['matrix_series', 'read_history', 'series_of_rows']


def read_history(path: Path) -> Run:
    """Read a history file as far as it is whole; ``Run.warnings`` says where it is not."""
    batches: list[pa.RecordBatch] = []
    warnings: list[str] = []
    header: dict[str, Any] = {}
    for schema, batch, wrong, position in read_batches(path):
        header = header_of(schema) or header
        if batch is not None:
            batches.append(batch)
        elif wrong == 'unfinished':
            # A run that is still going, or one that was killed between two records: nothing is missing.
            continue
        elif wrong:
            warnings.append(f'{path.name} cannot be read behind byte {position} ({wrong}); what is before is here.')
    tasks = {int(task_id): str(name) for task_id, name in header.get('tasks', {}).items()}
    run = Run(path, tasks=tasks, configuration=dict(header.get('configuration', {})), warnings=warnings)
    if not batches:
        return run
    table = pa.Table.from_batches([_plain_names(batch) for batch in batches])
    kinds = table['kind'].to_numpy()
    iterations, times = table['iteration'].to_numpy(), table['time'].to_numpy()
    encoded = table['name'].unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.chunk(0)
    names, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    scalar = kinds == SCALAR
    run.series.update(
        series_of_rows(names, codes[scalar], iterations[scalar], table['value'].to_numpy()[scalar], times[scalar])
    )
    texts = table['text']
    matrices: dict[str, dict[int, Any]] = {}
    notes: dict[tuple[int, str], str] = {}
    findings: dict[tuple[Any, ...], Finding] = {}
    for index in np.flatnonzero(~scalar).tolist():
        iteration, name, value = int(iterations[index]), names[codes[index]], texts[index].as_py()
        if kinds[index] == MATRIX:
            matrices.setdefault(name, {})[iteration] = json.loads(value)
        elif kinds[index] == NOTE:
            notes[iteration, name] = str(json.loads(value))
        elif kinds[index] == FINDING:
            finding = finding_of(value)
            findings[finding.key, finding.found] = finding
    run.matrices.update({name: matrix_series(points) for name, points in matrices.items()})
    run.notes.extend(Note(iteration, name, text) for (iteration, name), text in sorted(notes.items()))
    run.findings.extend(findings.values())
    return replace(run)


def _plain_names(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.replace_schema_metadata(None)


def series_of_rows(
    names: list[str],
    codes: npt.NDArray[Any],
    iterations: npt.NDArray[Any],
    values: npt.NDArray[Any],
    times: npt.NDArray[Any],
) -> dict[str, Series]:
    """Return the points of each metric from rows in the order in which they were written; the last of two counts.

    Example:
        >>> columns = (np.array([0, 1, 0, 0]), np.array([0, 0, 5, 0]), np.array([1.0, 2.0, 3.0, 4.0]), np.zeros(4))
        >>> {name: series.values.tolist() for name, series in series_of_rows(['a', 'b'], *columns).items()}
        {'a': [4.0, 3.0], 'b': [2.0]}
    """
    order = np.lexsort((np.arange(len(codes)), iterations, codes))
    codes, iterations, values, times = codes[order], iterations[order], values[order], times[order]
    last = np.ones(len(codes), bool)
    last[:-1] = (codes[1:] != codes[:-1]) | (iterations[1:] != iterations[:-1])
    codes, iterations, values, times = codes[last], iterations[last], values[last], times[last]
    edges = np.flatnonzero(np.diff(codes)) + 1
    starts = [0, *edges.tolist()] if len(codes) else []
    stops = [*starts[1:], len(codes)][: len(starts)]
    return {
        names[codes[start]]: Series(
            iterations[start:stop].astype(np.int64), values[start:stop].astype(np.float64), times[start:stop]
        )
        for start, stop in zip(starts, stops, strict=True)
    }


def matrix_series(points: dict[int, Any]) -> MatrixSeries:
    """Return matrices of one name by iteration; where their axes have changed, those that are as the last one."""
    last = points[max(points)]
    rows, columns = tuple(last['rows']), tuple(last['columns'])
    same = {
        iteration: point
        for iteration, point in sorted(points.items())
        if (tuple(point['rows']), tuple(point['columns'])) == (rows, columns)
    }
    values = np.array([point['values'] for point in same.values()], np.float64).reshape(-1, len(rows), len(columns))
    labels = dict(last['labels'])
    return MatrixSeries(np.array(list(same), np.int64), values, rows, columns, labels)
