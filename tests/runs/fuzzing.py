"""Files that nobody would write, made of files that somebody did."""

from __future__ import annotations

import copy
import io
import json
import math
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tensorboardX import SummaryWriter

from ding_normmon.destinations.tensorboard.frames import checksum
from ding_normmon.runs import Run, RunError, read_run
from ding_normmon.runs.chunks import MARK, Chunk, scan, seal, unsealed
from ding_normmon.runs.exports import WRITERS
from ding_normmon.runs.format import HEADER, SCHEMA
from tests.runs.histories import write_starts

__all__ = ['READERS', 'fuzzed', 'mutated', 'read_or_refuse', 'seeds_of']

_ODD = [b'\xff' * 4, b'\0' * 8, b'\x7f\xff\xff\xff', b'9' * 400, b'NaN', b'-1', b'1e999', b'[' * 50, b'"', b'\x1b]52;']


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return a file with a few things changed in it: bits, numbers, stretches taken out, doubled or moved, its end."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        if not changed:
            break
        at = chance.randrange(len(changed))
        length = min(chance.choice((1, 2, 4, 8, 50, 400)), len(changed) - at)
        kind = chance.randrange(8)
        if kind == 0:
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            changed[at : at + length] = chance.randbytes(length)
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = changed[at : at + length]
        elif kind == 4:
            changed[at : at + 1] = chance.choice(_ODD)
        elif kind == 5:
            del changed[at:]
        elif kind == 6:
            start = at // 4 * 4
            changed[start : start + 4] = struct.pack('<i', chance.choice((-1, 0, 2**31 - 1, -(2**31), len(data))))
        else:
            other = chance.randrange(len(changed))
            changed[at : at + length] = changed[other : other + length]
    return bytes(changed)


def read_or_refuse(path: Path) -> Run | None:
    """Read a file; None where it is refused in a sentence. Anything else is a fault of the reader."""
    try:
        return read_run(path)
    except RunError:
        return None


def _history(folder: Path) -> list[bytes]:
    return [write_starts(folder, starts=2, records=4)]


def _unsealed(folder: Path) -> list[bytes]:
    path = folder / 'unsealed'
    schema = SCHEMA.with_metadata({HEADER: '{"version": 1, "tasks": {"0": "Pong"}, "configuration": {}}'})
    texts = [None, '{"values": [[1, 2]], "rows": [0], "columns": [0, 1], "labels": []}', '"note"']
    texts.append('{"rule": "odd", "severity": "info", "since": 1, "found": 2, "sentence": "Odd.", "advice": "Wait."}')
    columns = [
        pa.array([1, 1, 1, 1]),
        pa.array([0.0] * 4),
        pa.array([0, 1, 2, 3], pa.int8()),
        pa.array(['a', 'm', 'n', 'odd']).dictionary_encode(),
        pa.array([1.0, None, None, None]),
        pa.array(texts, pa.string()),
    ]
    for options in (None, pa.ipc.IpcWriteOptions(compression='zstd')):
        with pa.OSFile(str(path), 'wb') as sink, pa.ipc.new_stream(sink, schema, options=options) as stream:
            stream.write_batch(pa.record_batch(columns, schema=schema))
        if options is None:
            plain = path.read_bytes()
    return [plain, path.read_bytes()]


def _events(folder: Path) -> list[bytes]:
    writer = SummaryWriter(str(folder / 'events'))
    for step in range(6):
        writer.add_scalar('loss', 1.0 / (step + 1), step)
        writer.add_text('text', 'hello', step)
    writer.close()
    (path,) = (folder / 'events').iterdir()
    return [path.read_bytes()]


def _export(form: str) -> Callable[[Path], list[bytes]]:
    def made(folder: Path) -> list[bytes]:
        write_starts(folder, starts=1, records=6)
        run = read_run(folder)
        WRITERS[form](run, folder / 'out')
        return [(folder / 'out').read_bytes()]

    return made


READERS: dict[str, tuple[str, Callable[[Path], list[bytes]]]] = {
    'history': ('history.arrows', _history),
    'unsealed': ('history.arrows', _unsealed),
    'events': ('events.out.tfevents.1.host', _events),
    'csv': ('run.csv', _export('csv')),
    'json': ('run.json', _export('json')),
    'parquet': ('run.parquet', _export('parquet')),
}
"""Name of the file, and how whole ones are made, by reader."""


def seeds_of(reader: str, folder: Path) -> list[bytes]:
    """Return whole files of a kind."""
    made = folder / 'seeds'
    made.mkdir(parents=True, exist_ok=True)
    return READERS[reader][1](made)


def fuzzed(reader: str, whole: bytes, chance: random.Random) -> bytes:
    """Return a changed file: half of them pass what is looked at first, so that readers come to what is inside."""
    if reader not in _INSIDE or chance.random() < 0.5:
        return mutated(whole, chance)
    return _INSIDE[reader](whole, chance)


def _with_right_checksums(whole: bytes, chance: random.Random) -> bytes:
    """Return mutated events, each cut to a frame with a right checksum."""
    data = mutated(whole, chance)
    frames, position = b'', 0
    while position + 16 <= len(data):
        length = min(struct.unpack_from('<Q', data, position)[0], 4000)
        event = data[position + 12 : position + 12 + length]
        head = struct.pack('<Q', len(event))
        frames += head + checksum(head) + event + checksum(event)
        position += 16 + length
    return frames


def _with_right_seals(whole: bytes, chance: random.Random) -> bytes:
    """Return a history in which what stands before or behind some seals is changed, and the seals are right."""
    parts = []
    for found in scan(whole):
        piece = whole[found.start : found.stop]
        if isinstance(found, Chunk) and chance.random() < 0.3:
            text = unsealed(found.session, found.number, found.names_before, found.has_extra)
            at = piece.index(MARK)
            before, behind = piece[:at], piece[at + len(text) :]
            if chance.random() < 0.5:
                before = mutated(before, chance)
            else:
                behind = mutated(behind, chance)
            piece = seal(before + text.encode() + behind, text)
        parts.append(piece)
    return b''.join(parts)


def _with_the_beginning_intact(whole: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(whole))
    return whole[:at] + mutated(whole[at:], chance)


_NUMBERS = [None, True, -1, 0.5, 2**63, 10**300, float('nan'), float('inf')]
_VALUES = [*_NUMBERS, '', 'NaN', '\x1b]52;', [], [[]], {}, {'a': {}}]


def _with_other_values(whole: bytes, chance: random.Random) -> bytes:
    """Return JSON in which some values are others, left out, or moved."""
    content = json.loads(whole)
    for _ in range(chance.randint(1, 4)):
        place: Any = content
        while True:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            if not keys:
                break
            key = chance.choice(keys)
            if isinstance(place[key], (dict, list)) and chance.random() < 0.8:
                place = place[key]
                continue
            kind = chance.randrange(3)
            if kind == 0:
                place[key] = copy.deepcopy(chance.choice(_VALUES))
            elif kind == 1:
                del place[key]
            else:
                place[key] = copy.deepcopy(place[chance.choice(keys)])
            break
    return json.dumps(content).encode()


def _with_another_footer_or_table(whole: bytes, chance: random.Random) -> bytes:
    """Return Parquet whose footer is changed, which has no checksum, or which holds another table than an export."""
    if chance.random() < 0.5:
        begin = len(whole) - 8 - int.from_bytes(whole[-8:-4], 'little')
        footer = mutated(whole[begin:-8], chance)
        return whole[:begin] + footer + len(footer).to_bytes(4, 'little') + whole[-4:]
    table = pq.read_table(io.BytesIO(whole))
    header = table.schema.metadata[HEADER]
    for _ in range(chance.randint(0, 2)):
        values = chance.choices(_CELLS[chance.choice(list(_CELLS))], k=table.num_rows)
        place = chance.randrange(table.num_columns)
        name = chance.choice((*table.column_names, table.column_names[place]))
        table = table.set_column(place, name, pa.array(values))
    header = mutated(header, chance) if chance.random() < 0.5 else header
    written = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({HEADER: header}), written, compression='zstd')
    return written.getvalue()


_CELLS: dict[str, list[Any]] = {
    'integers': [None, 0, -1, 2**63 - 1, -(2**63)],
    'numbers': [None, 0.0, math.nan, math.inf, 1e300],
    'texts': [None, '', 'a', 'NaN', '\x1b]52;', 'x' * 1000],
    'bytes': [None, b'', b'\xff'],
    'lists': [None, [], [1]],
    'dictionaries': [None, {'a': 1}],
    'nothing': [None],
}


_INSIDE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    'history': _with_right_seals,
    'unsealed': _with_the_beginning_intact,
    'events': _with_right_checksums,
    'csv': _with_the_beginning_intact,
    'json': _with_other_values,
    'parquet': _with_another_footer_or_table,
}
