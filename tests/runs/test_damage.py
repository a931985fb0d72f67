"""Damage anywhere in a history file costs itself: flips, cuts, what is missing, what was put in."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from ding_normmon.core.record import Record
from ding_normmon.runs import RunError, read_run
from ding_normmon.runs.chunks import Chunk, scan, seal, unsealed
from ding_normmon.runs.history_file import FILE_NAME
from ding_normmon.runs.streams import read_streams
from tests.runs.histories import assert_repaired, points, sample, write, write_starts
from tests.sampling import sampled

pytestmark = pytest.mark.slow


def spared(data: bytes, positions: set[int]) -> set[int]:
    """Return which of the records, by place in the file, hold none of the positions."""
    chunks = [part for part in scan(data) if isinstance(part, Chunk)]
    whole = [all(not part.start <= position < part.stop for position in positions) for part in chunks]
    # The last chunk of each start repeats what was said, and holds no record.
    last = {part.session: number for number, part in enumerate(chunks)}
    records = [number for number in range(len(chunks)) if number not in last.values()]
    return {place for place, number in enumerate(records) if whole[number]}


def flip_and_read(folder: Path, whole: bytes, flips: int, seed: int) -> None:
    chance = random.Random(seed)
    path = folder / FILE_NAME
    positions = {chance.randrange(len(whole)) for _ in range(flips)}
    damaged = bytearray(whole)
    for position in positions:
        damaged[position] ^= 1 << chance.randrange(8)
    path.write_bytes(damaged)
    expected = {place: float(place) for place in spared(whole, positions)}
    assert points(read_run(path)) == expected, positions
    assert_repaired(path)
    # Another start goes on behind it, and takes nothing away.
    write(path, [Record(60, {'a': 60.0})])
    assert path.read_bytes()[: len(damaged)] == bytes(damaged), positions
    run = read_run(path)
    assert points(run) == {**expected, 60: 60.0}
    assert_repaired(path)
    assert run.tasks == {0: 'Pong', 1: 'Qbert'}


@pytest.mark.parametrize('seed', sampled(range(40), 5))
def test_a_flip_costs_the_record_that_it_is_in(tmp_path: Path, seed: int) -> None:
    flip_and_read(tmp_path, write_starts(tmp_path), 1, seed)


@pytest.mark.full
@pytest.mark.parametrize('seed', range(40, 540))
def test_flips_cost_the_records_that_they_are_in(tmp_path: Path, seed: int) -> None:
    flip_and_read(tmp_path, write_starts(tmp_path), 1 + seed % 2, seed)


def test_names_and_tasks_of_a_damaged_beginning_are_said_again(tmp_path: Path) -> None:
    whole = write_starts(tmp_path, starts=1)
    path = tmp_path / FILE_NAME
    first = next(part for part in scan(whole) if isinstance(part, Chunk))
    path.write_bytes(bytes(first.stop) + whole[first.stop :])
    run = read_run(path)
    assert_repaired(path)
    assert points(run) == {number: float(number) for number in range(1, 20)}
    assert set(run.series) == {'a', 'b0', 'b1', 'b2'}
    assert (run.tasks, run.configuration) == ({0: 'Pong', 1: 'Qbert'}, {'seed': 3})
    # Also if its first bytes are not there at all, and everything stands elsewhere.
    path.write_bytes(whole[first.stop - 13 :])
    assert points(read_run(path)) == points(run)
    assert_repaired(path)


@pytest.mark.parametrize('place', [0, 7, 19])
def test_a_record_that_is_sealed_and_cannot_be_read_costs_itself(tmp_path: Path, place: int) -> None:
    """A seal may be right over anything: another version wrote it, or somebody who meant to."""
    whole = write_starts(tmp_path, starts=1)
    chunks = [part for part in scan(whole) if isinstance(part, Chunk)]
    bad = chunks[place]
    text = unsealed(bad.session, bad.number, bad.names_before, bad.has_extra)
    sealed = seal(b'?' * 40 + text.encode() + b'?' * 40, text)
    path = tmp_path / FILE_NAME
    path.write_bytes(whole[: bad.start] + sealed + whole[bad.stop :])
    run = read_run(path)
    assert_repaired(path)
    assert points(run) == {number: float(number) for number in range(20) if number != place}
    assert '1 records cannot be read' in ' '.join(run.warnings)


def test_a_sector_of_zeros_costs_what_was_in_it(tmp_path: Path) -> None:
    whole = write_starts(tmp_path, starts=2, records=100)
    path = tmp_path / FILE_NAME
    start = len(whole) // 3 // 512 * 512
    path.write_bytes(whole[:start] + bytes(4096) + whole[start + 4096 :])
    expected = spared(whole, set(range(start, start + 4096)))
    assert 150 < len(expected) < 200
    assert points(read_run(path)) == {place: float(place) for place in expected}
    assert_repaired(path)


def moved(parts: list[bytes], how: str) -> list[bytes]:
    half = len(parts) // 2
    if how == 'doubled':
        return [*parts[:half], parts[half], *parts[half:], *parts[half - 3 :]]
    if how == 'reversed':
        return parts[::-1]
    return random.Random(1).sample(parts, len(parts))


@pytest.mark.parametrize('how', ['doubled', 'reversed', 'shuffled'])
@pytest.mark.parametrize('starts', [1, 2])
def test_records_that_were_moved_or_doubled_are_read_as_they_were_written(
    tmp_path: Path, how: str, starts: int
) -> None:
    whole = write_starts(tmp_path, starts)
    path = tmp_path / FILE_NAME
    parts = [whole[part.start : part.stop] for part in scan(whole) if isinstance(part, Chunk)]
    path.write_bytes(b''.join(moved(parts, how)))
    history = read_streams(path)
    assert [(stream.records, stream.lost) for stream in history.streams] == [(20, 0)] * starts
    # Which start came first is where it begins; of a single one everything is shown.
    assert_repaired(path)
    if starts == 1:
        assert points(read_run(path)) == {place: float(place) for place in range(20)}
        assert not read_run(path).warnings


def test_two_writers_that_could_not_lock_the_file_are_two_starts(tmp_path: Path) -> None:
    files = [write_starts(tmp_path / name, starts=1) for name in 'ab']
    pieces = [[data[part.start : part.stop] for part in scan(data) if isinstance(part, Chunk)] for data in files]
    path = tmp_path / FILE_NAME
    path.write_bytes(b''.join(piece for pair in zip(*pieces, strict=True) for piece in pair))
    history = read_streams(path)
    assert [(stream.records, stream.lost) for stream in history.streams] == [(20, 0), (20, 0)]
    assert points(read_run(path)) == {place: float(place) for place in range(20)}
    assert_repaired(path)


def test_a_doubled_record_hides_no_lost_one(tmp_path: Path) -> None:
    whole = write_starts(tmp_path, starts=1)
    parts = [whole[part.start : part.stop] for part in scan(whole) if isinstance(part, Chunk)]
    path = tmp_path / FILE_NAME
    path.write_bytes(b''.join([*parts[:6], parts[5], *parts[7:]]))
    assert [stream.lost for stream in read_streams(path).streams] == [1]
    assert '1 records are in the parts that cannot be read' in read_run(path).warnings[0]
    assert_repaired(path)


def test_only_a_torn_last_record_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    write(path, [sample(number) for number in range(5)], close=False)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    write(path, [Record(5, {'a': 5.0})])
    assert points(read_run(path)) == {number: float(number) for number in (0, 1, 2, 3, 5)}
    assert_repaired(path)
    assert read_streams(path).damages == []
    # The same bytes with a flip in them are whole in length: they stay.
    flipped = whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:]
    path.write_bytes(flipped)
    write(path, [Record(5, {'a': 5.0})])
    assert path.read_bytes().startswith(flipped)


def test_what_cannot_be_read_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = write_starts(tmp_path)
    path = tmp_path / FILE_NAME
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    path.write_bytes(damaged)
    assert_repaired(path)
    warnings = read_run(tmp_path).warnings
    assert 'cannot be read' in warnings[0]
    assert '1 records are in the parts' in warnings[1]
    write(path, [Record(60, {'a': 60.0})])
    assert 'damaged' in caplog.text
    assert 'normmon check' in caplog.text


def test_a_history_without_seals_is_read_and_gone_on_with(tmp_path: Path) -> None:
    import pyarrow as pa

    from ding_normmon.runs.format import HEADER, SCHEMA

    path = tmp_path / FILE_NAME
    schema = SCHEMA.with_metadata({HEADER: '{"version": 1, "tasks": {"0": "Pong"}, "configuration": {}}'})
    names = pa.array(['a']).dictionary_encode()
    with pa.OSFile(str(path), 'wb') as sink, pa.ipc.new_stream(sink, schema) as stream:
        for number in range(3):
            columns = [pa.array([number]), pa.array([0.0]), pa.array([0], pa.int8())]
            values = [pa.array([float(number)]), pa.array([None], pa.string())]
            stream.write_batch(pa.record_batch([*columns, names, *values], schema=schema))
    run = read_run(path)
    assert_repaired(path)
    assert (points(run), run.tasks, run.warnings) == ({0: 0.0, 1: 1.0, 2: 2.0}, {0: 'Pong'}, [])
    write(path, [Record(2, {'a': 7.0})])
    assert points(read_run(path)) == {0: 0.0, 1: 1.0, 2: 7.0}


@pytest.mark.parametrize('kind', ['symbolic link', 'hard link', 'folder', 'pipe', 'text', 'another stream'])
def test_what_is_no_history_of_ours_is_not_touched(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    import pyarrow as pa

    victim, path = tmp_path / 'thesis.tex', tmp_path / 'run' / FILE_NAME
    victim.write_text('important\n' * 100)
    path.parent.mkdir()
    if kind == 'symbolic link':
        path.symlink_to(victim)
    elif kind == 'hard link':
        path.hardlink_to(victim)
    elif kind == 'folder':
        path.mkdir()
    elif kind == 'pipe':
        os.mkfifo(path)
    elif kind == 'text':
        path.write_text('my notes')
    else:
        with pa.OSFile(str(path), 'wb') as sink, pa.ipc.new_stream(sink, pa.schema([('x', pa.int64())])) as stream:
            stream.write_batch(pa.record_batch({'x': pa.array([1])}))
    before = path.read_bytes() if path.is_file() else b''
    write(path, [Record(0, {'a': 1.0})])
    assert victim.read_text() == 'important\n' * 100
    assert (path.read_bytes() if path.is_file() else b'') == before
    assert str(path.with_name('history-2.arrows')) in caplog.text
    run = read_run(path.parent)
    assert points(run) == {0: 1.0}


def test_a_second_writer_has_a_file_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / FILE_NAME
    first, second = (write(path, [Record(0, {'a': value})], close=False) for value in (1.0, 100.0))
    first.publish(Record(10, {'a': 2.0}))
    second.publish(Record(10, {'a': 200.0}))
    assert 'is being written by another run' in caplog.text
    first.close()
    second.close()
    run = read_run(tmp_path)
    assert points(run) == {0: 1.0, 10: 2.0}
    assert 'history-2.arrows' in run.warnings[0]
    assert points(read_run(tmp_path / 'history-2.arrows')) == {0: 100.0, 10: 200.0}
    # Whoever comes later finds the first file free again.
    write(path, [Record(20, {'a': 3.0})])
    assert points(read_run(tmp_path)) == {0: 1.0, 10: 2.0, 20: 3.0}


def test_a_child_that_lives_on_does_not_hold_the_file(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    file = write(path, [Record(0, {'a': 0.0})], close=False)
    (reading, writing), (hearing, telling) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.write(telling, b'.')
        os.read(reading, 1)
        os._exit(0)
    os.read(hearing, 1)
    file._release()  # as a kill does
    write(path, [Record(1, {'a': 1.0})])
    os.close(writing)
    os.waitpid(child, 0)
    assert points(read_run(path)) == {0: 0.0, 1: 1.0}
    with pytest.raises(RunError):
        read_run(tmp_path / 'history-2.arrows')
