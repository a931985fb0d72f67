"""The history file: Arrow's streaming format, one record batch per record, numbers in long form.

A file is one or more streams behind each other, one for every time the run was started. A batch is written with one
call, so that whatever ends the process, at most the last batch is torn.
"""

from __future__ import annotations

import dataclasses
import io
import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from ding_normmon.core.finding import Finding
from ding_normmon.core.record import Matrix, Record

__all__ = ['FINDING', 'MATRIX', 'NOTE', 'SCALAR', 'SCHEMA', 'Encoder', 'header_of']

SCALAR, MATRIX, NOTE, FINDING = range(4)
"""What a row is, in its column ``kind``."""

SCHEMA = pa.schema(
    [
        ('iteration', pa.int64()),
        ('time', pa.float64()),  # seconds since 1970
        ('kind', pa.int8()),
        ('name', pa.dictionary(pa.int32(), pa.string())),
        ('value', pa.float64()),  # of a scalar
        ('text', pa.string()),  # of anything else, as JSON
    ]
)
"""Columns of the history file."""

_VERSION = 1


class Encoder:
    """Turns records into bytes of one stream.

    Arguments:
        tasks: global task id to name.
        configuration: the run's configuration as plain values.
    """

    def __init__(self, tasks: Mapping[int, str], configuration: Mapping[str, Any]) -> None:
        header = {'version': _VERSION, 'tasks': dict(tasks), 'configuration': configuration}
        schema = SCHEMA.with_metadata({'ding_normmon': json.dumps(header, default=str)})
        self._buffer = io.BytesIO()
        self._schema = schema
        options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
        self._writer = pa.ipc.new_stream(self._buffer, schema, options=options)
        self._index: dict[str, int] = {}
        self._names: pa.Array = pa.array([], pa.string())

    def encode(self, record: Record, now: float | None = None) -> bytes:
        """Return the bytes of one record; those of the first begin with the stream's header."""
        texts = [
            *((MATRIX, name, json.dumps(_plain_matrix(matrix))) for name, matrix in record.matrices.items()),
            *((NOTE, name, json.dumps(text)) for name, text in record.notes.items()),
            *((FINDING, finding.rule, json.dumps(dataclasses.asdict(finding))) for finding in record.findings),
        ]
        names = [*record.scalars, *(name for _, name, _ in texts)]
        known = len(self._index)
        codes = [self._index.setdefault(name, len(self._index)) for name in names]
        if len(self._index) > known:
            self._names = pa.array(list(self._index), pa.string())
        rows, scalars = len(names), len(record.scalars)
        values = np.full(rows, np.nan)
        values[:scalars] = np.fromiter(record.scalars.values(), np.float64, scalars)
        kinds = np.zeros(rows, np.int8)
        kinds[scalars:] = [kind for kind, _, _ in texts]
        batch = pa.record_batch(
            [
                pa.array(np.full(rows, record.iteration, np.int64)),
                pa.array(np.full(rows, time.time() if now is None else now)),
                pa.array(kinds),
                pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), self._names),
                pa.array(values, mask=np.arange(rows) >= scalars),
                pa.array([None] * scalars + [text for _, _, text in texts], pa.string()),
            ],
            schema=self._schema,
        )
        self._writer.write_batch(batch)
        return self._take()

    def end(self) -> bytes:
        """Return the bytes that end the stream."""
        self._writer.close()
        return self._take()

    def _take(self) -> bytes:
        data = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        return data


def _plain_matrix(matrix: Matrix) -> dict[str, Any]:
    return {
        # repr of a float is exact; NaN and infinities are what Python's JSON takes them for.
        'values': np.asarray(matrix.values, np.float64).tolist(),
        'rows': list(matrix.rows),
        'columns': list(matrix.columns),
        'labels': [[key, label] for key, label in matrix.labels.items()],
    }


def header_of(schema: pa.Schema) -> dict[str, Any]:
    """Return what a stream's header says; empty where it is none of ours."""
    raw = (schema.metadata or {}).get(b'ding_normmon')
    return {} if raw is None else dict(json.loads(raw))


def finding_of(text: str) -> Finding:
    """Return the finding that was written as a text.

    Example:
        >>> finding = Finding('odd', 'info', 3, 5, 'Odd.', 'Wait.', tasks=(1,), evidence={'x': 2.0})
        >>> finding_of(json.dumps(dataclasses.asdict(finding))) == finding
        True
    """
    fields = json.loads(text)
    return Finding(**{**fields, 'tasks': tuple(fields['tasks']), 'task_names': tuple(fields['task_names'])})
