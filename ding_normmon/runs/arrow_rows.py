"""Rows of a history file out of Arrow's tables, and what of a file Arrow may be shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ding_normmon.runs.format import SCALAR, SCHEMA
from ding_normmon.runs.frames import frames
from ding_normmon.runs.stream import Rows

__all__ = ['UNREADABLE', 'decodable', 'first_line', 'refuse_columns', 'rows_of']

UNREADABLE = (pa.ArrowException, OSError, EOFError, ValueError, TypeError, MemoryError, OverflowError)
"""What Arrow raises at what it cannot read."""


def decodable(data: bytes, start: int, stop: int) -> pa.Buffer:
    """Return bytes of a file as Arrow may be shown them.

    Raises:
        ValueError: they are compressed.
        FrameError: they hold no messages of Arrow.
    """
    for frame in frames(data, start, stop):
        if frame.is_compressed:
            raise ValueError('it is compressed, which no history file is: a few bytes could be any amount of memory')
    # Arrow wants numbers where a processor can read them.
    return pa.py_buffer(data)[start:stop] if start % 8 == 0 else pa.py_buffer(data[start:stop])


def refuse_columns(schema: pa.Schema) -> None:
    """Refuse columns that are not those of a history file.

    Raises:
        ValueError: a column is missing, doubled or of another type.
    """
    for expected in SCHEMA:
        if len(schema.get_all_field_indices(expected.name)) != 1:
            raise ValueError(f'its columns are {", ".join(schema.names)[:200]}, not those of a history file')
        kind = schema.field(expected.name).type
        if expected.name == 'name' and pa.types.is_dictionary(kind):
            kind, wanted = kind.value_type, pa.string()
        elif expected.name == 'kind' and pa.types.is_integer(kind):
            continue
        else:
            wanted = expected.type
        if kind != wanted:
            raise ValueError(f'its column {expected.name} is of the type {kind}')


def rows_of(tables: Sequence[pa.Table]) -> tuple[Rows, int]:
    """Return the columns of tables behind each other, without rows that lack something; and how many those were."""

    def column(name: str) -> npt.NDArray[Any]:
        return _joined([table.column(name).to_numpy() for table in tables])

    def has(name: str) -> npt.NDArray[Any]:
        return _joined([table.column(name).is_valid().to_numpy() for table in tables]).astype(bool)

    kinds, numbers = column('kind'), _joined([_codes(table) for table in tables])
    whole = np.ones(len(kinds), bool)
    for name in ('iteration', 'time', 'kind', 'name'):
        if any(table.column(name).null_count for table in tables):
            whole &= has(name)
    valued, texted = has('value'), has('text')
    whole &= np.where(kinds == SCALAR, valued, texted)
    iterations, times, values = column('iteration'), column('time'), column('value')
    odd = int(len(whole) - whole.sum())
    texts: dict[int, str] = {}
    written = whole & (kinds != SCALAR)
    if written.any():
        every = pa.chunked_array([chunk for table in tables for chunk in table.column('text').chunks], pa.string())
        places = np.cumsum(whole) - 1
        chosen = np.flatnonzero(written)
        found = every.take(pa.array(chosen)).to_pylist()
        texts = dict(zip(places[chosen].tolist(), found, strict=True))
    if odd:
        kinds, numbers, iterations = kinds[whole], numbers[whole], iterations[whole]
        times, values = times[whole], values[whole]
    return (
        Rows(
            iterations.astype(np.int64, copy=False),
            times.astype(np.float64, copy=False),
            kinds.astype(np.int64, copy=False),
            numbers.astype(np.int64, copy=False),
            values.astype(np.float64, copy=False),
            texts,
        ),
        odd,
    )


def _codes(table: pa.Table) -> npt.NDArray[Any]:
    return _joined([chunk.indices.to_numpy(zero_copy_only=False) for chunk in table.column('name').chunks])


def _joined(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, shortened."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
