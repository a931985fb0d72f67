"""Files that were made to do harm: pipes and devices under a run's names, and few bytes that would be much memory."""

from __future__ import annotations

import base64
import json
import multiprocessing
import os
import random
import resource
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ding_normmon import Record
from ding_normmon.core.incident import tell_incident
from ding_normmon.monitor.findings import incidents as incidents_of_today
from ding_normmon.runs import RunError, plain_incident, read_run, slots
from ding_normmon.runs.black_box import box_name
from ding_normmon.runs.format import INCIDENT, Encoder
from ding_normmon.runs.header import Header
from ding_normmon.runs.history_file import FILE_NAME
from ding_normmon.runs.read_black_box import boxes_of, incident_of_death, read_box
from ding_normmon.runs.report.curves import STEPS
from ding_normmon.runs.report.page import render_page
from ding_normmon.runs.slots import EVENT, HEADER_BYTES, OWN, RECORD, encode_header, encode_slot, pack_names
from tests.runs.fuzzing import mutated


@pytest.mark.parametrize('name', [FILE_NAME, box_name(0), 'events.out.tfevents.1.host'])
@pytest.mark.parametrize(
    'make', [os.mkfifo, lambda path: path.symlink_to('/dev/zero'), lambda path: path.symlink_to(path)]
)
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, name: str, make: Callable[[Path], object]) -> None:
    make(tmp_path / name)
    with pytest.raises(RunError):
        read_run(tmp_path)
    with pytest.raises(RunError):
        boxes_of(tmp_path)
    with pytest.raises(RunError):
        read_box(tmp_path / name)


def history_with(path: Path, incidents: Iterable[dict[str, Any]]) -> None:
    encoder = Encoder(Header().plain())
    data = encoder.encode(Record(0, {'a': 1.0}))
    for number, incident in enumerate(incidents):
        texts = [json.dumps({'kind': 'finding', 'reason': 'Odd.', 'since': 1, **incident})]
        data += encoder.encode_rows(number, 0.0, [INCIDENT], [f'incident/{number}'], [np.nan], texts)
    path.write_bytes(data + encoder.end())


def window(names: list[str], iterations: range) -> dict[str, Any]:
    values = zlib.compress(bytes(8 * len(names) * len(iterations)), 9)
    return {'names': names, 'iterations': list(iterations), 'values': base64.b64encode(values).decode()}


def test_windows_of_more_numbers_than_there_is_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_incident, '_MOST_CELLS', 20_000)
    monkeypatch.setattr(plain_incident, '_MOST_CELLS_IN_ALL', 300_000)
    names = [f'n{number}' for number in range(100)]
    incidents = [{'number': number, 'opened': number, 'window': window(names, range(100))} for number in range(60)]
    large = {'number': 99, 'opened': 99, 'window': window(names * 4, range(400))}
    history_with(tmp_path / FILE_NAME, [*incidents, large])
    run = read_run(tmp_path)
    assert [len(incident.window.iterations) for incident in run.incidents] == [100] * 30 + [0] * 30
    assert any('30 incidents are told without the steps' in warning for warning in run.warnings)
    assert any('1 incidents cannot be read' in warning for warning in run.warnings)


def test_parts_of_an_incident_that_have_nothing_in_common(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_incident, '_MOST_CELLS', 20_000)
    names = [[f'{part}_{number}' for number in range(90)] for part in range(20)]
    windows = [window(names[part], range(90 * part, 90 * part + 90)) for part in range(20)]
    history_with(tmp_path / FILE_NAME, [{'number': 1, 'opened': 1, 'window': entry} for entry in windows])
    [incident] = read_run(tmp_path).incidents
    assert incident.window.values.size == 90 * 90


def test_what_a_monitor_writes_of_an_incident_is_below_what_is_read() -> None:
    assert plain_incident._MOST_CELLS >= 2 * incidents_of_today._MOST_BYTES // 8
    assert plain_incident._MOST_CELLS_IN_ALL >= 2 * incidents_of_today._MOST * incidents_of_today._MOST_BYTES // 8


def box_with(folder: Path, steps: Iterable[bytes]) -> Path:
    body = b''.join(steps)
    path = folder / box_name(0)
    path.write_bytes(encode_header({'size': HEADER_BYTES + len(body), 'rank': 0}) + body)
    return path


def test_names_of_more_bytes_than_there_is_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, '_MOST_NAMES', 100_000)
    names = [zlib.compress(b'[' + b'0,' * 30_000 + b'%d]' % number, 9) for number in range(4)]
    good = encode_slot(99, 99, 0.0, RECORD, pack_names(['a']), np.ones(1))
    bad = [encode_slot(number, number, 0.0, RECORD, name) for number, name in enumerate(names)]
    box = read_box(box_with(tmp_path, [good, *bad]))
    assert box.window.iterations.tolist() == [99]
    assert box.torn == 3


def test_steps_of_a_black_box_that_have_nothing_in_common(tmp_path: Path) -> None:
    steps = [
        encode_slot(step, step, 0.0, RECORD, pack_names([f'{step}_{name}' for name in range(30)]), np.ones(30))
        for step in range(100)
    ]
    box = read_box(box_with(tmp_path, steps))
    assert box.window.iterations[-1] == 99
    assert box.window.values.size <= 4 * 30 * 100
    assert any('oldest steps' in warning for warning in box.warnings)


KEY = ['gradient_norms', 'g', None, '']
VECTOR = ['gradient_norms', 'g', None, 'parameters']


@pytest.mark.parametrize(
    'names',
    [
        {'rows': [[1, 2, 3, 4]], 'vectors': []},
        {'rows': [KEY], 'vectors': [], 'paths': 3},
        {'rows': [['x', 'g', [], '']], 'vectors': []},
        {'rows': [KEY], 'vectors': [[VECTOR, -5]]},
        {'rows': [], 'vectors': [[VECTOR, 'x']]},
        {'rows': [], 'vectors': [[VECTOR, True]]},
        {'rows': [], 'vectors': [[VECTOR, 6]], 'paths': {'g': 5}},
        {'rows': [KEY, KEY], 'vectors': []},
        {'rows': 5, 'vectors': None},
        [1],
    ],
)
def test_a_slot_that_says_what_it_does_not_hold(tmp_path: Path, names: Any) -> None:
    good = encode_slot(1, 7, 0.0, OWN, pack_names({'rows': [KEY], 'vectors': []}), np.array([1.0, 3, 0, 3, 3, 0]))
    box = read_box(box_with(tmp_path, [encode_slot(0, 3, 0.0, OWN, pack_names(names), np.ones(6)), good]))
    assert box.window.iterations.tolist() == [7]
    assert box.window.names == ('grad/g/_total_norm',)


def test_a_csv_file_with_lines_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / 'run.csv'
    lines = ['name,iteration,time,value', 'a,1,0,1', f'"{"q" * 200_000}",2,0,1', 'a,3,0,nan', 'a,x,0,1', 'a,4,0']
    path.write_text('\n'.join(['\ufeff' + lines[0], *lines[1:], 'a,5,0,2', '']))
    run = read_run(path)
    assert run.series['a'].iterations.tolist() == [1, 3, 5]
    assert '3 lines are no points, the first of them line 3' in run.warnings[0]


@pytest.mark.parametrize('is_dictionary', [True, False])
def test_a_long_name_of_every_row_of_parquet_is_in_memory_once(tmp_path: Path, is_dictionary: bool) -> None:
    path, rows = tmp_path / 'run.parquet', 300_000
    codes = np.arange(rows, dtype=np.int32) % 2
    names = pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(['x' * 5_000_000, 'a']))
    columns = {'iteration': pa.array(np.arange(rows)), 'time': pa.array(np.zeros(rows)), 'value': pa.array(codes * 1.0)}
    pq.write_table(pa.table({'name': names, **columns}), path, compression='zstd', store_schema=is_dictionary)
    assert path.stat().st_size < 5_000_000

    def read() -> None:
        used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), used + (1 << 30)))
        series = read_run(path).series['a']
        assert series.iterations.tolist() == list(range(1, rows, 2))
        assert (series.values == 1).all()

    child = multiprocessing.get_context('fork').Process(target=read)
    child.start()
    child.join()
    assert child.exitcode == 0


@pytest.mark.parametrize('kind', ['numbers', 'lists', 'twice', 'large texts'])
def test_columns_of_parquet_of_other_types(tmp_path: Path, kind: str) -> None:
    path = tmp_path / 'run.parquet'
    columns = [pa.array(['a', 'b']), pa.array([1, 2]), pa.array([0.0, 0.0]), pa.array([1.0, None])]
    names = ['name', 'iteration', 'time', 'value']
    if kind == 'numbers':
        columns[0] = pa.array([1, 2])
    elif kind == 'lists':
        columns[3] = pa.array([[1.0], [2.0]])
    elif kind == 'twice':
        columns, names = [*columns, columns[0]], [*names, 'name']
    else:
        columns[0] = columns[0].cast(pa.large_string())
    pq.write_table(pa.Table.from_arrays(columns, names), path)
    if kind == 'large texts':
        assert list(read_run(path).series) == ['a']
    else:
        with pytest.raises(RunError, match=r'run\.parquet'):
            read_run(path)


def with_right_checksums(chance: random.Random) -> bytes:
    """Return a slot whose names, numbers or text are not what they should be, under a right checksum."""
    names = json.dumps({'rows': [KEY], 'vectors': [[VECTOR, 3]], 'paths': {'g': ['a', 'b', 'c']}}).encode()
    packed = zlib.compress(mutated(names, chance) if chance.random() < 0.7 else names)
    numbers = np.array([chance.choice((0.0, -1.0, 1e300, np.nan, np.inf, 7.0)) for _ in range(chance.choice((6, 9)))])
    text = chance.choice(
        (None, 5, [], {'watch': 8}, {'exception': [1]}, {'notes': 3}, {'findings': {'a': 1}}, 'closed')
    )
    kind = chance.choice((OWN, OWN, RECORD, EVENT, 9))
    iteration = chance.choice((-5, 0, 3, 1 << 62))
    return encode_slot(chance.randrange(5), iteration, chance.choice((0.0, np.nan)), kind, packed, numbers, text)


def test_black_boxes_with_anything_changed_in_them_are_read_or_refused(tmp_path: Path) -> None:
    chance = random.Random(0)
    path = tmp_path / box_name(0)
    read = 0
    for number in range(600):
        whole = box_with(tmp_path, [with_right_checksums(chance) for _ in range(6)]).read_bytes()
        if number % 2:
            path.write_bytes(whole[:HEADER_BYTES] + mutated(whole[HEADER_BYTES:], chance))
        try:
            box = read_box(path)
        except RunError:
            continue
        read += 1
        death = incident_of_death([box])
        assert death is None or tell_incident(death)
    assert read > 500


def test_times_and_counts_beyond_any_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / 'export.csv'
    rows = [('0', '1.0', 'nan'), ('1', 'inf', '1e308'), ('2', 'nan', '-1e308'), ('3', '4.0', 'inf')]
    lines = [f'{name},{iteration},{time},{value}' for iteration, value, time in rows for name in ('a', STEPS)]
    path.write_text('\n'.join(['name,iteration,time,value', *lines, '']))
    run = read_run(path)
    assert run.series['a'].times.min() >= 0
    assert run.series['a'].times.max() <= 253402300800
    assert render_page([run])
