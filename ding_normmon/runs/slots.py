"""What is in a black box: a header and, behind it, slots that each carry their own checksum.

A file has a fixed size and is one ring. Its header is :data:`HEADER_BYTES` long: ``normmon black box``, version u32,
length u32 and CRC-32 u32 of what follows, and a JSON text (rank, ranks, tasks, frequency, process). A slot begins at a
multiple of :data:`ALIGNMENT`, all numbers little-endian::

    'nmslot1' | length u32 | CRC-32 u32 | sequence u64 | iteration i64 | time f64 | kind u32 | names u32 | numbers u32
    | text u32 | names, JSON compressed by zlib | numbers, float64 | text, JSON

The checksum is that of the whole slot with zeros where it stands itself. Slots are numbered in the order in which they
were written; the oldest are overwritten.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ['ALIGNMENT', 'EVENT', 'HEADER_BYTES', 'OWN', 'RECORD', 'VERSION', 'HeaderError', 'Slot']
__all__ += ['SlotError', 'encode_header', 'encode_slot', 'pack_names', 'read_header', 'slots_of']

OWN, RECORD, EVENT = 1, 2, 3
"""Kinds: what one rank has measured, the figures of all ranks, and what happened beside them."""

VERSION = 1
HEADER_BYTES = 1 << 14
ALIGNMENT = 512

_BEGIN = b'normmon black box\n'
_HEAD = struct.Struct('<18sIII')
_MARK = b'nmslot1\n'
_SLOT = struct.Struct('<8sIIQqdIIII')
_CHECK_AT = 12
_MOST_NAMES = 1 << 25
"""Bytes of all names of a file that differ: compressed, they fit into a few."""


class SlotError(ValueError):
    """A file that is no black box of this version; the message says what it is."""


class HeaderError(SlotError):
    """A black box of this version whose header is damaged."""


@dataclass(frozen=True)
class Slot:
    """One intact slot.

    Arguments:
        sequence: its number, ascending in the order of writing.
        iteration: 0-based learner iteration.
        time: seconds since 1970.
        kind: :data:`OWN`, :data:`RECORD` or :data:`EVENT`.
        names: plain values that say what the numbers are.
        numbers: float64.
        text: plain values.
    """

    sequence: int
    iteration: int
    time: float
    kind: int
    names: Any
    numbers: npt.NDArray[np.float64]
    text: Any


def encode_header(about: Mapping[str, Any]) -> bytes:
    """Return the header of a file; names of tasks that do not fit into it are left out.

    Example:
        >>> read_header(encode_header({'size': 1 << 20, 'rank': 0}))
        {'size': 1048576, 'rank': 0}
    """
    for content in (about, {**about, 'tasks': {}}, {'size': about.get('size'), 'rank': about.get('rank')}):
        text = json.dumps(content, default=str).encode()
        if len(text) <= HEADER_BYTES - _HEAD.size:
            break
    return (_HEAD.pack(_BEGIN, VERSION, len(text), zlib.crc32(text)) + text).ljust(HEADER_BYTES, b'\0')


def read_header(data: Any) -> dict[str, Any]:
    """Return what a header says.

    Raises:
        SlotError: no black box, or one of another version.
        HeaderError: the header is damaged.
    """
    if len(data) < _HEAD.size or bytes(data[: len(_BEGIN)]) != _BEGIN:
        raise SlotError('is no black box')
    _, version, length, check = _HEAD.unpack_from(data)
    if version != VERSION:
        raise SlotError(f'was written by version {version} of the black box; this is version {VERSION}')
    text = bytes(data[_HEAD.size : _HEAD.size + min(length, HEADER_BYTES)])
    if zlib.crc32(text) != check:
        raise HeaderError('has a damaged header')
    content = json.loads(text)
    return content if isinstance(content, dict) else {}


def pack_names(names: Any) -> bytes:
    """Return names as they stand in a slot; the same ones are packed once for many slots."""
    return zlib.compress(json.dumps(names, separators=(',', ':'), default=int).encode(), 1)


def encode_slot(
    sequence: int,
    iteration: int,
    time: float,
    kind: int,
    names: bytes = b'',
    numbers: npt.NDArray[np.float64] | None = None,
    text: Any = None,
) -> bytes:
    """Return the bytes of one slot, a multiple of :data:`ALIGNMENT` long.

    Example:
        >>> data = encode_slot(7, 40, 0.0, RECORD, pack_names(['loss']), np.array([2.5]))
        >>> [slot], torn = slots_of(data)
        >>> slot.sequence, slot.names, slot.numbers.tolist(), torn, len(data)
        (7, ['loss'], [2.5], 0, 512)
        >>> slots_of(data[:60] + b'?' + data[61:])
        ([], 1)
    """
    values = b'' if numbers is None else np.ascontiguousarray(numbers, '<f8').tobytes()
    told = b'' if text is None else json.dumps(text, separators=(',', ':'), default=str).encode()
    body = names + values + told
    length = _SLOT.size + len(body)
    sizes = (len(names), len(values) // 8, len(told))
    head = _SLOT.pack(_MARK, length, 0, sequence, iteration, time, kind, *sizes)
    check = zlib.crc32(body, zlib.crc32(head))
    head = head[:_CHECK_AT] + struct.pack('<I', check) + head[_CHECK_AT + 4 :]
    return (head + body).ljust(-(-length // ALIGNMENT) * ALIGNMENT, b'\0')


def slots_of(data: Any, start: int = 0) -> tuple[list[Slot], int]:
    """Return the intact slots of a ring in the order in which they were written, and how many are torn.

    Arguments:
        data: bytes.
        start: position of the first slot.
    """
    found = list(_scan(data, start, _Names()))
    slots = [slot for slot in found if slot is not None]
    return sorted(slots, key=lambda slot: slot.sequence), len(found) - len(slots)


class _Names:
    """Unpacks the names of slots; the same ones come slot after slot, and are kept once."""

    def __init__(self) -> None:
        self._known: dict[bytes, Any] = {b'': []}
        self._left = _MOST_NAMES

    def unpack(self, packed: bytes) -> Any:
        """Return what :func:`pack_names` packed.

        Raises:
            ValueError, zlib.error, RecursionError: it is none, or there are too many.
        """
        if packed not in self._known:
            text = zlib.decompressobj().decompress(packed, self._left + 1)
            self._left -= len(text)
            if self._left < 0:
                raise ValueError('more names than in any black box')
            self._known[packed] = json.loads(text)
        return self._known[packed]


def _scan(data: Any, start: int, known: _Names) -> Iterator[Slot | None]:
    """Yield every slot; None for one that is torn."""
    position = start
    while (position := data.find(_MARK, position)) >= 0:
        if position % ALIGNMENT or position + _SLOT.size > len(data):
            position += 1
            continue
        slot, length = _slot_at(data, position, known)
        yield slot
        position += ALIGNMENT if slot is None else -(-length // ALIGNMENT) * ALIGNMENT


def _slot_at(data: Any, position: int, known: _Names) -> tuple[Slot | None, int]:
    _, length, check, sequence, iteration, time, kind, names, numbers, text = _SLOT.unpack_from(data, position)
    if length != _SLOT.size + names + 8 * numbers + text or position + length > len(data):
        return None, 0
    head = data[position : position + _CHECK_AT] + bytes(4) + data[position + _CHECK_AT + 4 : position + _SLOT.size]
    at = position + _SLOT.size
    if zlib.crc32(data[at : position + length], zlib.crc32(head)) != check:
        return None, 0
    try:
        said = known.unpack(data[at : at + names])
        values = np.frombuffer(data, '<f8', numbers, at + names)
        told = json.loads(data[position + length - text : position + length]) if text else None
    except (ValueError, zlib.error, RecursionError):
        return None, 0
    return Slot(sequence, iteration, time, kind, said, values, told), length
