"""Messages between ranks: encoding and decoding are exact, and other bytes are refused."""

from __future__ import annotations

import json
import math
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ding_normmon.ranks import message
from ding_normmon.ranks.message import (
    CONTROL,
    ROWS,
    MessageError,
    decode,
    encode,
    encode_answer,
    encode_schema,
    schema_digest,
)
from ding_normmon.rows.table import Batch, RowKey

SESSION = b'session1'
KEYS = (RowKey('gradient_norms', 'encoder'), RowKey('tensor_statistics', 'logits/value', 3), RowKey('a', 'ü', 0, 'p.q'))


def rows_of(count: int) -> np.ndarray:
    """Rows with everything a row can hold."""
    rows = np.arange(count * 6, dtype=np.float64).reshape(count, 6) * math.pi
    if count:
        rows[0] = [0, 0, 0, math.inf, -math.inf, 2]
    return rows


def message_of(keys: tuple[RowKey, ...] = KEYS, schema: bool = True) -> bytes:
    encoded = encode_schema(keys)
    batch = Batch(1234, keys, rows_of(len(keys)))
    return encode(3, SESSION, batch, schema_digest(encoded), encoded if schema else None, {'late': 2})


def resealed(data: bytes) -> bytes:
    """The same bytes with a checksum that is right again."""
    head, body = data[: message._HEADER.size], data[message._BODY :]
    return head + message._CHECK.pack(zlib.crc32(body, zlib.crc32(head))) + body


def forged(schema: bytes, count: int = 1) -> bytes:
    """A message with a right checksum and digest around any schema."""
    batch = Batch(0, KEYS[:count], rows_of(count))
    return encode(1, SESSION, batch, schema_digest(schema), schema, {})


# -- both ways -------------------------------------------------------------------------------------------------------


def test_decoding_returns_what_was_encoded() -> None:
    said = decode(message_of(), SESSION)
    assert (said.kind, said.rank, said.iteration, said.note) == (ROWS, 3, 1234, {'late': 2})
    assert said.schema is not None
    assert said.schema.keys == KEYS
    assert np.array_equal(said.rows, rows_of(len(KEYS)))


def test_keys_travel_once() -> None:
    first, later = message_of(), message_of(schema=False)
    assert len(later) < len(first)
    said = decode(later, SESSION)
    assert said.schema is None
    assert said.digest == decode(first, SESSION).digest
    assert np.array_equal(said.rows, rows_of(len(KEYS)))


def test_a_message_without_rows() -> None:
    said = decode(message_of(keys=()), SESSION)
    assert said.schema is not None
    assert said.schema.keys == ()
    assert said.rows.shape == (0, 6)


def test_an_answer() -> None:
    said = decode(encode_answer(2, SESSION, 50, {'number': 1, 'applied': True}), SESSION)
    assert (said.kind, said.rank, said.iteration) == (CONTROL, 2, 50)
    assert said.note == {'number': 1, 'applied': True}


NAMES = st.text(max_size=20)
ROW_KEYS = st.builds(RowKey, NAMES, NAMES, st.none() | st.integers(-5, 10**6), NAMES)


@given(st.lists(ROW_KEYS, max_size=6), st.integers(0, 2**32 - 1), st.integers(-(2**63), 2**63 - 1))
def test_any_rows_of_any_keys(keys: list[RowKey], rank: int, iteration: int) -> None:
    encoded = encode_schema(keys)
    batch = Batch(iteration, tuple(keys), rows_of(len(keys)))
    said = decode(encode(rank, SESSION, batch, schema_digest(encoded), encoded, {}), SESSION)
    assert (said.rank, said.iteration) == (rank, iteration)
    assert said.schema is not None
    assert said.schema.keys == tuple(keys)
    assert np.array_equal(said.rows, batch.rows)


def test_bits_of_rows_arrive_as_they_were() -> None:
    rows = np.array([[-0.0, 5e-324, 1.7976931348623157e308, math.nan, math.inf, -math.inf]])
    batch = Batch(0, KEYS[:1], rows)
    said = decode(encode(0, SESSION, batch, bytes(8), None, {}), SESSION)
    assert said.rows.tobytes() == rows.tobytes()


# -- nothing else ----------------------------------------------------------------------------------------------------


def test_every_truncation_is_refused() -> None:
    data = message_of()
    for length in range(len(data)):
        with pytest.raises(MessageError):
            decode(data[:length], SESSION)


def test_every_flipped_bit_is_refused() -> None:
    data = message_of()
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << (position % 8)
        with pytest.raises(MessageError):
            decode(bytes(flipped), SESSION)


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(MessageError, match='according to its header'):
        decode(message_of() + b'\0', SESSION)


def test_a_message_of_another_run_is_refused() -> None:
    with pytest.raises(MessageError, match='another run'):
        decode(message_of(), b'session2')


@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(MessageError):
        decode(data, SESSION)


@given(st.binary(max_size=120))
def test_foreign_bytes_after_a_valid_header_are_refused(data: bytes) -> None:
    header = message._HEADER.pack(b'NMON', message._VERSION, ROWS, 0, 1, SESSION, 0, bytes(8), 0, len(data), 0)
    with pytest.raises(MessageError):
        decode(resealed(header + bytes(4) + data + b' '), SESSION)


@pytest.mark.parametrize(
    ('count', 'schema', 'note'), [(2**32 - 1, 0, 0), (0, 2**32 - 1, 0), (0, 0, 2**32 - 1), (9, 9, 9)]
)
def test_a_header_that_announces_too_much_costs_nothing(count: int, schema: int, note: int) -> None:
    header = message._HEADER.pack(b'NMON', message._VERSION, ROWS, 0, 1, SESSION, 0, bytes(8), count, schema, note)
    data = resealed(header + bytes(4))
    tracemalloc.start()
    try:
        with pytest.raises(MessageError, match='according to its header'):
            decode(data, SESSION)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize(
    'content',
    [
        None,
        [],
        5,
        'keys',
        {},
        {'tasks': None},
        {'keys': {}},
        {'tasks': 3, 'keys': []},
        {'tasks': [True], 'keys': []},
        {'tasks': ['0'], 'keys': []},
        {'keys': [5]},
        {'keys': [['a', 'b', 3]]},
        {'keys': [['a', 'b', 3, '', '']]},
        {'keys': [['a', 'b', 1.0, '']]},
        {'keys': [['a', 'b', True, '']]},
        {'keys': [['a', 'b', '3', '']]},
        {'keys': [[1, 'b', 3, '']]},
        {'keys': [['a', None, 3, '']]},
        {'keys': [['a', 'b', 3, {}]]},
        {'keys': [{'quantity': 'a'}]},
    ],
)
def test_an_invalid_schema_is_refused(content: object) -> None:
    with pytest.raises(MessageError):
        decode(forged(json.dumps(content).encode()), SESSION)


@pytest.mark.parametrize(
    'schema',
    [
        b'{"keys":' + b'[' * 100_000,
        b'[' * 100_000 + b']' * 100_000,
        b'{"keys":[["a","b",' + b'9' * 10_000 + b',""]]}',
        b'\xff\xfe\xfd',
        b'{"keys":[["a","b",NaN,""]]}',
        b'__import__("os").system("true")',
    ],
    ids=['deep', 'deep and closed', 'huge integer', 'no text', 'NaN', 'code'],
)
def test_malicious_json_is_refused(schema: bytes) -> None:
    with pytest.raises(MessageError):
        decode(forged(schema), SESSION)


def test_as_many_keys_as_rows() -> None:
    with pytest.raises(MessageError, match='1 row keys for 2 rows'):
        decode(forged(encode_schema(KEYS[:1]), count=2), SESSION)


@pytest.mark.parametrize('note', [{'a b': 1}, {'late': 1.5}, {'late': -1}, {'late': True}, {'late': '1'}, {'': 1}])
def test_an_invalid_note_is_refused(note: dict[str, int]) -> None:
    batch = Batch(0, (), rows_of(0))
    with pytest.raises(MessageError, match='not a count of lost data'):
        decode(encode(1, SESSION, batch, bytes(8), None, note), SESSION)


# -- vectors beside the rows -----------------------------------------------------------------------------------------

VECTORS = {
    RowKey('gradient_conflict', 'encoder', 3, 'sketch'): np.linspace(-1, 1, 7, dtype=np.float32),
    RowKey('updates', 'encoder', None, 'sketch'): np.array([math.pi, math.inf, -0.0]),
}


def with_vectors(vectors: dict[RowKey, np.ndarray] = VECTORS, schema: bool = True) -> tuple[bytes, bytes]:
    encoded = encode_schema(KEYS, vectors)
    batch = Batch(7, KEYS, rows_of(len(KEYS)), vectors)
    return encode(3, SESSION, batch, schema_digest(encoded), encoded if schema else None, {}), encoded


def test_vectors_arrive_bit_for_bit() -> None:
    said = decode(with_vectors()[0], SESSION)
    assert said.schema is not None
    vectors = said.schema.split(said.vectors)
    assert list(vectors) == list(VECTORS)
    for key, vector in VECTORS.items():
        assert vectors[key].dtype == vector.dtype
        assert vectors[key].tobytes() == vector.tobytes()
    assert np.array_equal(said.rows, rows_of(len(KEYS)))


def test_vectors_are_split_by_the_schema_of_an_earlier_message() -> None:
    schema = decode(with_vectors()[0], SESSION).schema
    later = decode(with_vectors(schema=False)[0], SESSION)
    assert schema is not None
    assert later.schema is None
    assert schema.split(later.vectors)[RowKey('updates', 'encoder', None, 'sketch')][0] == math.pi


def test_a_message_without_vectors_has_the_old_layout() -> None:
    assert encode_schema(KEYS) == encode_schema(KEYS, {})
    assert message_of()[6:8] == b'\0\0'
    assert len(decode(message_of(), SESSION).vectors) == 0


def test_every_truncation_of_vectors_is_refused() -> None:
    data, _ = with_vectors()
    for length in range(len(data)):
        with pytest.raises(MessageError):
            decode(data[:length], SESSION)
    with pytest.raises(MessageError):
        decode(data + b'\0', SESSION)


@pytest.mark.parametrize('size', [0, 4, 2**32 - 1])
def test_vectors_of_another_size_are_refused(size: int) -> None:
    data, _ = with_vectors(schema=False)
    at = len(data) - 7 * 4 - 3 * 8 - 4
    with pytest.raises(MessageError, match='according to its header'):
        decode(resealed(data[:at] + message._SIZE.pack(size) + data[at + 4 :]), SESSION)


def test_vectors_that_do_not_fit_the_schema_are_refused() -> None:
    data, _ = with_vectors()
    schema = decode(data, SESSION).schema
    assert schema is not None
    with pytest.raises(MessageError, match='48 bytes of vectors, but 52 according to its schema'):
        schema.split(decode(data, SESSION).vectors[:-4])
    encoded = encode_schema(KEYS, VECTORS)
    batch = Batch(7, KEYS, rows_of(len(KEYS)))
    with pytest.raises(MessageError, match='52 bytes of vectors'):
        decode(encode(3, SESSION, batch, schema_digest(encoded), encoded, {}), SESSION)


@pytest.mark.parametrize(
    'vectors',
    [
        {},
        None,
        [5],
        [['a', 'b', 3, '', 'f4']],
        [['a', 'b', 3, '', 'f2', 5]],
        [['a', 'b', 3, '', ['f4'], 5]],
        [['a', 'b', 3, '', 'f4', 0]],
        [['a', 'b', 3, '', 'f4', -5]],
        [['a', 'b', 3, '', 'f4', True]],
        [['a', 'b', 3, '', 'f4', 10**12]],
        [['a', 'b', 1.0, '', 'f4', 5]],
        [['a', 'b', 3, '', 'f4', 5], ['a', 'b', 3, '', 'f4', 5]],
    ],
)
def test_a_schema_with_invalid_vectors_is_refused(vectors: object) -> None:
    content = {'keys': [list(KEYS[0])], 'vectors': vectors}
    with pytest.raises(MessageError):
        decode(forged(json.dumps(content).encode()), SESSION)


def test_unknown_flags_are_refused() -> None:
    data = bytearray(message_of())
    data[6] = 2
    with pytest.raises(MessageError, match='flags'):
        decode(resealed(bytes(data)), SESSION)
