"""What travels between ranks: plain numbers with an inert schema; decoding evaluates nothing.

A message is a fixed header and three parts, all little-endian::

    header  'NMON' | version u8 | kind u8 | 2 bytes 0 | rank u32 | session 8 bytes | iteration i64 | schema 8 bytes
            | rows u32 | schema bytes u32 | note bytes u32 | crc32 of everything else u32
    schema  JSON: the row keys; only the first time a rank uses them (else 0 bytes)
    note    JSON: what the rank lost since its last message, or what it answers to a decision (else 0 bytes)
    rows    float64, six columns each

The session is drawn by rank 0 at the start of a run, so that a message of another run is recognised as such.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ding_normmon.moments import Row
from ding_normmon.rows import Batch, RowKey

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
]

ROWS, CONTROL = 0, 1
"""Kinds of message: the rows of one iteration, and an answer to a decision of rank 0."""

_MAGIC = b'NMON'
_VERSION = 3
_HEADER = struct.Struct('<4sBBHI8sq8sIII')
_CHECK = struct.Struct('<I')
_BODY = _HEADER.size + _CHECK.size
_REASON = re.compile(r'[A-Za-z0-9_.-]{1,100}')


class MessageError(ValueError):
    """Bytes that are no message of this version and run, or that were cut short or changed."""


@dataclass(frozen=True)
class Schema:
    """What the rows of a rank are rows of.

    Arguments:
        keys: one key per row.
    """

    keys: tuple[RowKey, ...]


@dataclass(frozen=True)
class Message:
    """A decoded message.

    Arguments:
        kind: :data:`ROWS` or :data:`CONTROL`.
        rank: who sent it.
        iteration: 0-based learner iteration that was measured.
        digest: of the schema.
        schema: the schema, or None where the sender has sent it before.
        note: losses by reason (rows), or the answer (control).
        rows: float64, shape (N, 6); a read-only view of the message's bytes.
    """

    kind: int
    rank: int
    iteration: int
    digest: bytes
    schema: Schema | None
    note: Mapping[str, Any] = field(default_factory=dict)
    rows: Row = field(default_factory=lambda: np.zeros((0, 6)))


def encode_schema(keys: Sequence[RowKey]) -> bytes:
    """Return a schema as JSON.

    >>> encode_schema([RowKey('gradient_norms', 'head_value', 3)])
    b'{"keys":[["gradient_norms","head_value",3,""]]}'
    """
    return json.dumps({'keys': [list(key) for key in keys]}, separators=(',', ':')).encode()


def schema_digest(encoded: bytes) -> bytes:
    """Return the 8 bytes by which a schema is known once it has been sent."""
    return hashlib.blake2b(encoded, digest_size=8).digest()


def encode(
    rank: int, session: bytes, batch: Batch, digest: bytes, schema: bytes | None, losses: Mapping[str, int]
) -> bytes:
    """Return the bytes of one rank's rows of one iteration.

    >>> batch = Batch(10, (RowKey('gradient_norms', 'encoder'),), np.zeros((1, 6)))
    >>> schema = encode_schema(batch.keys)
    >>> data = encode(3, b'session1', batch, schema_digest(schema), schema, {})
    >>> decode(data, b'session1').schema.keys
    (RowKey(quantity='gradient_norms', name='encoder', task_id=None, part=''),)
    >>> decode(data[:-1], b'session1')
    Traceback (most recent call last):
        ...
    ding_normmon.message.MessageError: 146 bytes where the header announces 147
    """
    rows = np.ascontiguousarray(batch.rows, dtype='<f8').reshape(-1, 6)
    return _pack(ROWS, rank, session, batch.iteration, digest, schema or b'', losses, rows)


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
) -> bytes:
    said = json.dumps(dict(note), separators=(',', ':')).encode() if note else b''
    sizes = (len(rows), len(schema), len(said))
    header = _HEADER.pack(_MAGIC, _VERSION, kind, 0, rank, session, iteration, digest, *sizes)
    body = schema + said + rows.tobytes()
    return header + _CHECK.pack(zlib.crc32(body, zlib.crc32(header))) + body


def decode(data: bytes, session: bytes) -> Message:
    """Return what a message says.

    Raises:
        MessageError: anything that is not exactly a message of this session.
    """
    if len(data) < _BODY:
        raise MessageError(f'{len(data)} bytes are too few for a message')
    header = data[: _HEADER.size]
    magic, version, kind, _, rank, of, iteration, digest, count, schema_size, note_size = _HEADER.unpack(header)
    if magic != _MAGIC or version != _VERSION or kind not in (ROWS, CONTROL):
        raise MessageError(f'not a message of version {_VERSION}: it begins with {data[:6]!r}')
    if of != session:
        raise MessageError('it belongs to another run')
    expected = _BODY + schema_size + note_size + count * 48
    if len(data) != expected:
        raise MessageError(f'{len(data)} bytes where the header announces {expected}')
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
    note = _decode_note(kind, data[middle:start]) if note_size else {}
    rows = np.frombuffer(data, dtype='<f8', offset=start).reshape(-1, 6)
    return Message(kind, rank, iteration, digest, schema, note, rows)


def _json(data: bytes, what: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MessageError(f'the {what} is no JSON: {error}') from error


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _decode_schema(encoded: bytes) -> Schema:
    content = _json(encoded, 'schema')
    if not isinstance(content, dict) or not isinstance(content.get('keys'), list):
        raise MessageError('the schema has no row keys')
    keys = []
    for entry in content['keys']:
        if not (
            isinstance(entry, list)
            and len(entry) == 4
            and all(isinstance(entry[index], str) for index in (0, 1, 3))
            and (entry[2] is None or _is_integer(entry[2]))
        ):
            raise MessageError(f'{entry!r} is no row key')
        keys.append(RowKey(*entry))
    return Schema(tuple(keys))


def _decode_note(kind: int, encoded: bytes) -> dict[str, Any]:
    note = _json(encoded, 'note')
    if not isinstance(note, dict):
        raise MessageError('the note is no mapping')
    if kind == CONTROL:
        return note
    # A reason becomes part of a metric name.
    if not all(_REASON.fullmatch(reason) and _is_integer(amount) and amount > 0 for reason, amount in note.items()):
        raise MessageError('the note holds something that is no count of losses')
    return note
