"""The history file: Arrow's streaming format, one sealed chunk per record, numbers in long form.

A file is one or more streams behind each other, one for every time the run was started. A chunk is written with one
call, so that whatever ends the process, at most the last one is torn (:mod:`ding_normmon.runs.chunks`). No chunk
depends on one other chunk alone: what a chunk says first (names, the stream's header) the next one says again, and
later ones now and then.
"""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ding_normmon.core.record import Matrix, Record
from ding_normmon.runs.chunks import new_session, seal, unsealed
from ding_normmon.runs.plain_incident import plain_incident
from ding_normmon.runs.strict_json import dumps

__all__ = [
    'EXTRA',
    'FINDING',
    'HEADER',
    'INCIDENT',
    'MATRIX',
    'NOTE',
    'SCALAR',
    'SCHEMA',
    'SEAL',
    'VERSION',
    'Encoder',
    'beginning',
]

SCALAR, MATRIX, NOTE, FINDING, INCIDENT = range(5)
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

VERSION = 2
"""1 had no seals."""

HEADER, SEAL, EXTRA = b'ding_normmon', b'ding_normmon_seal', b'ding_normmon_extra'
"""Keys in Arrow's metadata: the stream's header; a chunk's seal and what it says again, both at its record batch."""

_OPTIONS = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)

_RATIO = 32
"""The header and all names are repeated after so many times their size has been written."""


class Encoder:
    """Turns records into the chunks of one stream.

    Arguments:
        header: description of the stream, as plain values; see :func:`~ding_normmon.runs.header.make_header`.
    """

    def __init__(self, header: Mapping[str, Any]) -> None:
        self._header = dumps({'version': VERSION, **header})
        self._session = new_session()
        self._buffer = io.BytesIO()
        self._schema = SCHEMA.with_metadata({HEADER: self._header})
        self._writer = pa.ipc.new_stream(self._buffer, self._schema, options=_OPTIONS)
        self._index: dict[str, int] = {}
        self._names: pa.Array = pa.array([], pa.string())
        self._number = 0
        self._names_said = 0  # names that two chunks have said
        self._written = 0  # since everything was said again

    def encode(self, record: Record, now: float | None = None) -> bytes:
        """Return the bytes of one record; those of the first begin with the stream's header."""
        texts = [
            *((MATRIX, name, dumps(_plain_matrix(matrix))) for name, matrix in record.matrices.items()),
            *((NOTE, name, dumps(text)) for name, text in record.notes.items()),
            *((FINDING, finding.rule, dumps(dataclasses.asdict(finding))) for finding in record.findings),
            *((INCIDENT, f'incident/{entry.number}', dumps(plain_incident(entry))) for entry in record.incidents),
        ]
        names = [*record.scalars, *(name for _, name, _ in texts)]
        scalars, rows = len(record.scalars), len(names)
        values = np.full(rows, np.nan)
        values[:scalars] = np.fromiter(record.scalars.values(), np.float64, scalars)
        kinds = np.zeros(rows, np.int8)
        kinds[scalars:] = [kind for kind, _, _ in texts]
        written = [None] * scalars + [text for _, _, text in texts]
        return self.encode_rows(record.iteration, time.time() if now is None else now, kinds, names, values, written)

    def encode_rows(
        self,
        iteration: int,
        now: float,
        kinds: Any,
        names: Sequence[str],
        values: Any,
        texts: Sequence[str | None],
    ) -> bytes:
        """Return the bytes of one record that is rows already; ``values`` count where ``texts`` is None."""
        before, rows = len(self._index), len(names)
        index = dict(self._index)
        codes = [index.setdefault(name, len(index)) for name in names]
        if len(index) > before:
            self._names = pa.array([_writable(name) for name in index], pa.string())
            self._index = index
        batch = pa.record_batch(
            [
                pa.array(np.full(rows, iteration, np.int64)),
                pa.array(np.full(rows, now)),
                pa.array(kinds, pa.int8()),
                pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), self._names),
                pa.array(values, mask=np.array([text is not None for text in texts], bool)),
                pa.array(texts, pa.string()),
            ],
            schema=self._schema,
        )
        return self._chunk(batch, before)

    def end(self) -> bytes:
        """Return the bytes that end the stream; all names and the header are in them once more."""
        empty = pa.record_batch([pa.array([], field.type) for field in SCHEMA], schema=self._schema)
        names = pa.DictionaryArray.from_arrays(pa.array([], pa.int32()), self._names)
        batch = empty.set_column(3, SCHEMA.field(3), names).replace_schema_metadata(self._schema.metadata)
        last = self._chunk(batch, len(self._index), is_last=True)
        self._writer.close()
        return last + self._take()

    def _chunk(self, batch: pa.RecordBatch, names_before: int, is_last: bool = False) -> bytes:
        extra: dict[str, Any] = {}
        if self._number == 1 or is_last or self._written > _RATIO * (len(self._header) + 24 * names_before):
            extra = {'first': 0, 'names': list(self._index)[:names_before], 'header': self._header}
            self._written = 0
        elif self._names_said < names_before:
            extra = {'first': self._names_said, 'names': list(self._index)[self._names_said : names_before]}
        self._names_said = names_before
        text = unsealed(self._session, self._number, names_before, bool(extra))
        metadata = {SEAL: text, **({EXTRA: dumps(extra)} if extra else {})}
        self._number += 1
        self._writer.write_batch(batch, custom_metadata=metadata)
        data = seal(self._take(), text)
        self._written += len(data)
        return data

    def _take(self) -> bytes:
        data = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        return data


def _writable(name: str) -> str:
    """Return a name as it can be written: half of a surrogate pair cannot."""
    return name.encode('utf-8', 'backslashreplace').decode('utf-8')


def beginning(schema: pa.Schema, names: int) -> bytes:
    """Return the beginning of a stream, up to a dictionary of so many arbitrary names.

    With it in front, the chunks of a stream can be read whose own beginning was lost.
    """
    buffer = io.BytesIO()
    writer = pa.ipc.new_stream(buffer, schema, options=_OPTIONS)
    columns = [pa.array([], field.type) for field in schema]
    at = schema.get_field_index('name')
    unknown = pa.repeat(pa.scalar('?', pa.string()), names)
    columns[at] = pa.DictionaryArray.from_arrays(pa.array([], schema.field(at).type.index_type), unknown)
    writer.write_batch(pa.record_batch(columns, schema=schema))
    return buffer.getvalue()


def _plain_matrix(matrix: Matrix) -> dict[str, Any]:
    return {
        'values': np.asarray(matrix.values, np.float64).tolist(),  # repr of a float is exact
        'rows': list(matrix.rows),
        'columns': list(matrix.columns),
        'labels': [[key, label] for key, label in matrix.labels.items()],
    }
