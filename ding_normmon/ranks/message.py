"""Messages between ranks: plain numbers and a JSON schema; decoding never runs code from a message.

A message is a fixed header and four parts, all little-endian::

    header  'NMON' | version u8 | kind u8 | flags u16 | rank u32 | session 8 bytes | iteration i64 | schema 8 bytes
            | rows u32 | schema bytes u32 | note bytes u32 | crc32 of everything else u32
    schema  JSON: the row keys, and key, type and length of each vector; only the first time a rank uses them (else 0
            bytes)
    note    JSON: data that the rank lost since its last message, or its answer to a decision (else 0 bytes)
    rows    float64, six columns each
    flags   1: there are vectors; 4: the step lies between two published records
    vectors only if flag 1 is set: number of bytes u32, then float32 and float64 vectors end to end

Rank 0 draws the session at the start of a run, so that messages of another run are recognised.
"""

from __future__ import annotations

import hashlib
import json
import operator
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ding_normmon.rows.moments import Row
from ding_normmon.rows.table import Batch, RowKey, Vector

__all__ = [
    'CONTROL',
    'ROWS',
    'Message',
    'MessageError',
    'Schema',
    'decode',
    'encode',
    'encode_answer',
    'encode_schema',
    'schema_digest',
    'vectors_of',
]

ROWS, CONTROL = 0, 1
"""Kinds of message: rows of one iteration, and an answer to a decision of rank 0."""

_MAGIC = b'NMON'
_VERSION = 3
_HEADER = struct.Struct('<4sBBHI8sq8sIII')
_CHECK = struct.Struct('<I')
_SIZE = struct.Struct('<I')
_BODY = _HEADER.size + _CHECK.size
_WITH_VECTORS, _WATCHED = 1, 4
_TYPES: dict[str, np.dtype[Any]] = {'f4': np.dtype('<f4'), 'f8': np.dtype('<f8')}
_LONGEST = 1 << 28
_REASON = re.compile(r'[A-Za-z0-9_.-]{1,100}')


class MessageError(ValueError):
    """Bytes that are not a message of this version and run, or that were truncated or changed."""


@dataclass(frozen=True)
class Schema:
    """The keys of a rank's rows and vectors.

    Arguments:
        keys: one key per row.
        vectors: key, type (``'f4'`` or ``'f8'``) and length of each vector.
    """

    keys: tuple[RowKey, ...]
    vectors: tuple[tuple[RowKey, str, int], ...] = ()

    @property
    def vector_bytes(self) -> int:
        """Size of the vectors of one message."""
        return sum(_TYPES[kind].itemsize * length for _, kind, length in self.vectors)

    def split(self, data: bytes | memoryview) -> dict[RowKey, Vector]:
        """Split ``data`` into vectors; read-only views of it.

        Raises:
            MessageError: their size is not the one in the schema.
        """
        if len(data) != self.vector_bytes:
            raise MessageError(f'{len(data)} bytes of vectors, but {self.vector_bytes} according to its schema')
        vectors, start = {}, 0
        for key, kind, length in self.vectors:
            vectors[key] = np.frombuffer(data, _TYPES[kind], length, start)
            start += vectors[key].nbytes
        return vectors


@dataclass(frozen=True)
class Message:
    """A decoded message.

    Arguments:
        kind: :data:`ROWS` or :data:`CONTROL`.
        rank: who sent it.
        iteration: 0-based learner iteration that was measured.
        digest: digest of the schema.
        schema: the schema; None if the sender has sent it before.
        note: counts of lost data by reason (rows), or the answer (control).
        rows: float64, shape (N, 6); a read-only view of the message's bytes.
        vectors: the concatenated vectors; :meth:`Schema.split` splits them.
        watched: whether the step lies between two published records.
    """

    kind: int
    rank: int
    iteration: int
    digest: bytes
    schema: Schema | None
    note: Mapping[str, Any] = field(default_factory=dict)
    rows: Row = field(default_factory=lambda: np.zeros((0, 6)))
    vectors: memoryview = field(default_factory=lambda: memoryview(b''))
    watched: bool = False


def encode_schema(keys: Sequence[RowKey], vectors: Mapping[RowKey, Vector] | None = None) -> bytes:
    """Return a schema as JSON.

    >>> encode_schema([RowKey('gradient_norms', 'head_value', 3)])
    b'{"keys":[["gradient_norms","head_value",3,""]]}'
    """
    content: dict[str, Any] = {'keys': [list(key) for key in keys]}
    if vectors:
        content['vectors'] = [[*key, _type_of(vector), len(vector)] for key, vector in vectors.items()]
    # A task id may be a NumPy integer.
    return json.dumps(content, separators=(',', ':'), default=operator.index).encode()


def vectors_of(batch: Batch) -> tuple[tuple[RowKey, str, int], ...]:
    """Return key, type and length of a batch's vectors, as a schema lists them."""
    return tuple((key, _type_of(vector), len(vector)) for key, vector in batch.vectors.items())


def _type_of(vector: Vector) -> str:
    return 'f4' if vector.dtype == np.float32 else 'f8'


def schema_digest(encoded: bytes) -> bytes:
    """Return the 8 bytes that identify a schema once it has been sent."""
    return hashlib.blake2b(encoded, digest_size=8).digest()


def encode(
    rank: int, session: bytes, batch: Batch, digest: bytes, schema: bytes | None, losses: Mapping[str, int]
) -> bytes:
    """Return the bytes of one rank's rows of one iteration.

    >>> batch = Batch(10, (RowKey('gradient_norms', 'encoder'),), np.zeros((1, 6)))
    >>> schema = encode_schema(batch.keys)
    >>> data = encode(3, b'session1', batch, schema_digest(schema), schema, {})
    >>> decode(data, b'session1').schema.keys
    (RowKey(metric='gradient_norms', name='encoder', task_id=None, part=''),)
    >>> decode(data[:-1], b'session1')
    Traceback (most recent call last):
        ...
    ding_normmon.ranks.message.MessageError: 146 bytes, but 147 according to its header
    """
    rows = np.ascontiguousarray(batch.rows, dtype='<f8').reshape(-1, 6)
    vectors = b''.join(np.asarray(vector, _TYPES[_type_of(vector)]).tobytes() for vector in batch.vectors.values())
    return _pack(ROWS, rank, session, batch.iteration, digest, schema or b'', losses, rows, vectors, batch.watched)


def encode_answer(rank: int, session: bytes, iteration: int, answer: Mapping[str, Any]) -> bytes:
    """Return the bytes of a rank's answer to a decision, given at ``iteration``."""
    return _pack(CONTROL, rank, session, iteration, bytes(8), b'', answer, np.zeros((0, 6)))


def _pack(
    kind: int,
    rank: int,
    session: bytes,
    iteration: int,
    digest: bytes,
    schema: bytes,
    note: Mapping[str, Any],
    rows: Row,
    vectors: bytes = b'',
    watched: bool = False,
) -> bytes:
    encoded_note = json.dumps(dict(note), separators=(',', ':')).encode() if note else b''
    sizes = (len(rows), len(schema), len(encoded_note))
    flags = (_WITH_VECTORS if vectors else 0) | (_WATCHED if watched else 0)
    header = _HEADER.pack(_MAGIC, _VERSION, kind, flags, rank, session, iteration, digest, *sizes)
    body = schema + encoded_note + rows.tobytes() + (_SIZE.pack(len(vectors)) + vectors if vectors else b'')
    return header + _CHECK.pack(zlib.crc32(body, zlib.crc32(header))) + body


def decode(data: bytes, session: bytes) -> Message:
    """Decode a message.

    Raises:
        MessageError: the bytes are not a valid message of this session.
    """
    if len(data) < _BODY:
        raise MessageError(f'{len(data)} bytes are too few for a message')
    header = data[: _HEADER.size]
    magic, version, kind, flags, rank, of, iteration, digest, count, schema_size, note_size = _HEADER.unpack(header)
    if magic != _MAGIC or version != _VERSION or kind not in (ROWS, CONTROL):
        raise MessageError(f'not a message of version {_VERSION}: it begins with {data[:6]!r}')
    if flags & ~(_WITH_VECTORS | _WATCHED):
        raise MessageError(f'unknown flags {flags:#x}')
    if of != session:
        raise MessageError('it belongs to another run')
    expected = _BODY + schema_size + note_size + count * 48
    vectors_at = expected + _SIZE.size
    if flags & _WITH_VECTORS:
        size = _SIZE.unpack_from(data, expected)[0] if len(data) >= vectors_at else 0
        expected = vectors_at + size
    if len(data) != expected:
        raise MessageError(f'{len(data)} bytes, but {expected} according to its header')
    if _CHECK.unpack_from(data, _HEADER.size)[0] != zlib.crc32(memoryview(data)[_BODY:], zlib.crc32(header)):
        raise MessageError('its checksum is wrong')
    middle, start = _BODY + schema_size, _BODY + schema_size + note_size
    schema = None
    if schema_size:
        encoded = data[_BODY:middle]
        if schema_digest(encoded) != digest:
            raise MessageError('the schema does not match its digest')
        schema = _decode_schema(encoded)
        if len(schema.keys) != count:
            raise MessageError(f'{len(schema.keys)} row keys for {count} rows')
        if schema.vector_bytes != max(0, len(data) - vectors_at):
            raise MessageError(f'{len(data) - vectors_at} bytes are left for {schema.vector_bytes} bytes of vectors')
    note = _decode_note(kind, data[middle:start]) if note_size else {}
    rows = np.frombuffer(data, dtype='<f8', count=6 * count, offset=start).reshape(-1, 6)
    vectors, watched = memoryview(data)[vectors_at:], bool(flags & _WATCHED)
    return Message(kind, rank, iteration, digest, schema, note, rows, vectors, watched)


def _json(data: bytes, what: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MessageError(f'the {what} is not JSON: {error}') from error


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _decode_schema(encoded: bytes) -> Schema:
    content = _json(encoded, 'schema')
    if not isinstance(content, dict) or not isinstance(content.get('keys'), list):
        raise MessageError('the schema has no row keys')
    keys = tuple(_decode_key(entry) for entry in content['keys'])
    return Schema(keys, _decode_vectors(content.get('vectors', [])))


def _decode_key(entry: Any) -> RowKey:
    if not (
        isinstance(entry, list)
        and len(entry) == 4
        and all(isinstance(entry[index], str) for index in (0, 1, 3))
        and (entry[2] is None or (_is_integer(entry[2]) and 0 <= entry[2] < 1 << 31))
    ):
        raise MessageError(f'{entry!r} is not a row key')
    return RowKey(*entry)


def _decode_vectors(content: Any) -> tuple[tuple[RowKey, str, int], ...]:
    if not isinstance(content, list):
        raise MessageError(f'{content!r} is not a list of vectors')
    vectors = []
    for entry in content:
        ok = isinstance(entry, list) and len(entry) == 6 and isinstance(entry[4], str) and entry[4] in _TYPES
        if not ok or not _is_integer(entry[5]) or not 0 < entry[5] <= _LONGEST:
            raise MessageError(f'{entry!r} is not a vector')
        vectors.append((_decode_key(entry[:4]), entry[4], entry[5]))
    if len({key for key, _, _ in vectors}) < len(vectors):
        raise MessageError('two vectors have the same key')
    return tuple(vectors)


def _decode_note(kind: int, encoded: bytes) -> dict[str, Any]:
    note = _json(encoded, 'note')
    if not isinstance(note, dict):
        raise MessageError('the note is not a mapping')
    if kind == CONTROL:
        return note
    # A reason becomes part of a metric name.
    # A larger count does not fit into a float.
    if not all(
        _REASON.fullmatch(reason) and _is_integer(amount) and 0 < amount < 1 << 53 for reason, amount in note.items()
    ):
        raise MessageError('the note holds something that is not a count of lost data')
    return note
