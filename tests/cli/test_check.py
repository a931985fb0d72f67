"""``normmon check``: what it says of whole, torn and damaged runs, and the clean copy."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from ding_normmon.cli.check import command
from ding_normmon.core.record import Record
from ding_normmon.runs import read_run
from ding_normmon.runs.chunks import Chunk, scan
from ding_normmon.runs.history_file import FILE_NAME
from tests.runs.histories import assert_repaired, points, sample, write, write_starts


def check(path: Path, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(command, [str(path), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def without_a_record(data: bytes) -> bytes:
    chunks = [part for part in scan(data) if isinstance(part, Chunk)]
    return data[: chunks[5].start] + data[chunks[5].stop :]


def test_a_whole_run_with_a_branch(tmp_path: Path) -> None:
    write(tmp_path / FILE_NAME, [sample(number) for number in range(20)])
    write(tmp_path / FILE_NAME, [Record(number, {'a': 0.0}) for number in (12, 14, 30)], begins_at=12)
    code, text = check(tmp_path)
    assert code == 0, text
    for part in ('whole', 'start 1:', '20 records of iterations 0 to 19', 'from 12 on replaced', 'start 2:', 'gaps'):
        assert part in text, (part, text)


def test_the_history_below_a_folder_of_lightzeros_is_checked(tmp_path: Path) -> None:
    folder = tmp_path / 'log' / 'serial'
    folder.mkdir(parents=True)
    write(folder / FILE_NAME, [sample(number) for number in range(5)])
    code, text = check(tmp_path)
    assert code == 0, text
    assert '5 records of iterations 0 to 4' in text
    data = (folder / FILE_NAME).read_bytes()
    (folder / FILE_NAME).write_bytes(data[:2000] + b'?' + data[2001:])
    assert check(tmp_path)[0] == 2


@pytest.mark.parametrize(
    ('harm', 'code', 'said'),
    [
        (lambda data: data[:-20], 1, 'middle of a record'),
        (lambda data: data[: len(data) // 2] + b'?' + data[len(data) // 2 + 1 :], 2, 'cannot be read'),
        (lambda data: b'my notes', 2, 'is no history file'),
        (lambda data: data[:6000] + data[12000:], 2, 'cannot be read'),
        (without_a_record, 2, '1 records are in the parts'),
    ],
)
def test_torn_is_a_warning_and_damage_is_an_error(tmp_path: Path, harm: object, code: int, said: str) -> None:
    data = write_starts(tmp_path)
    (tmp_path / FILE_NAME).write_bytes(harm(data))  # type: ignore[operator]
    found, text = check(tmp_path)
    assert (found, said in text) == (code, True), text


def test_what_the_monitor_lost_and_a_second_writer_are_told(tmp_path: Path) -> None:
    file = write(tmp_path / FILE_NAME, [Record(0, {'a': 1.0, 'monitor/lost/send': 3.0})], close=False)
    write(tmp_path / FILE_NAME, [Record(0, {'a': 1.0})])
    file.close()
    code, text = check(tmp_path)
    assert code == 1
    assert '3 x monitor/lost/send' in text
    assert 'history-2.arrows' in text


def test_a_clean_copy_holds_everything_that_is_whole(tmp_path: Path) -> None:
    write(tmp_path / FILE_NAME, [sample(number) for number in range(20)])
    write(tmp_path / FILE_NAME, [sample(number) for number in range(12, 30)], begins_at=12)
    path = tmp_path / FILE_NAME
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)
    before = read_run(path)
    code, text = check(tmp_path, '--repair')
    assert (code, path.read_bytes()) == (2, bytes(data))
    assert '37 records written' in text
    copy = tmp_path / 'history-repaired.arrows'
    after = read_run(copy)
    assert after.warnings == []
    assert list(after.series) == list(before.series)
    assert all(points(after, name) == points(before, name) for name in before.series)
    assert (after.tasks, after.configuration) == (before.tasks, before.configuration)
    assert after.findings == before.findings
    assert after.notes == before.notes
    assert check(copy)[0] == 0
    # Nothing is written over, and readers of the folder do not take the copy for the run.
    assert check(tmp_path, '--repair')[0] == 3
    assert points(read_run(tmp_path)) == points(before)


def test_where_nothing_can_be_copied_the_rest_is_checked_all_the_same(tmp_path: Path) -> None:
    write_starts(tmp_path, starts=1, records=3)
    (tmp_path / 'history-2.arrows').write_text('my notes')
    code, text = check(tmp_path, '--repair')
    assert (code, '3 records written' in text, 'there is nothing to copy' in text) == (2, True, True)
    assert not (tmp_path / 'history-2-repaired.arrows').exists()


def test_a_copy_is_whole_or_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_starts(tmp_path, starts=1, records=3)

    def fail(*_: object) -> bytes:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('ding_normmon.runs.format.Encoder.end', fail)
    code, text = check(tmp_path, '--repair')
    assert (code, 'No space left' in text) == (3, True)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_start_without_records_is_whole_and_stays_so(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    write(path, [sample(number) for number in range(20)])
    write(path, [], begins_at=12)
    assert list(points(read_run(path))) == list(range(12))
    assert_repaired(path)
