"""The runs below a folder: which there are, that newer data are read, and what cannot be asked for."""

from __future__ import annotations

import gzip
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from tensorboardX import SummaryWriter

from ding_normmon.core.record import Record
from ding_normmon.runs.live import library as module
from ding_normmon.runs.live.library import Answer, RunLibrary, UnknownRunError
from ding_normmon.runs.run import RunError
from tests.runs.live.training import write


def names(library: RunLibrary) -> set[str]:
    return {run['name'] for run in library.runs()}


def data(answer: Answer) -> Any:
    assert answer.data is not None
    return json.loads(gzip.decompress(answer.data))


@pytest.fixture(autouse=True)
def always_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, '_WALK', 0.0)
    monkeypatch.setattr(module, '_REST', 0.0)


def test_every_run_is_found_once(tmp_path: Path) -> None:
    write(tmp_path / 'atari' / 'seed0')
    write(tmp_path / 'atari' / 'seed1')
    for folder in ('atari/seed0', 'atari/seed0/log/serial', 'lightzero/log/serial', 'lightzero/log/serial/loss_task0'):
        with SummaryWriter(str(tmp_path / folder)) as writer:
            writer.add_scalar('loss', 1.0, 0)
    (tmp_path / 'notes').mkdir()
    (tmp_path / 'round').symlink_to(tmp_path)
    assert names(RunLibrary({'': tmp_path})) == {'atari/seed0', 'atari/seed1', 'lightzero/log/serial'}
    assert names(RunLibrary({'': tmp_path / 'atari' / 'seed0'})) == {'seed0'}
    assert names(RunLibrary({'': tmp_path / 'atari' / 'seed0' / 'history.arrows'})) == {'seed0'}
    assert names(RunLibrary({'mine': tmp_path / 'atari'})) == {'mine/seed0', 'mine/seed1'}
    assert names(RunLibrary({'': tmp_path / 'nowhere'})) == set()


def test_data_are_sent_when_there_are_new_ones(tmp_path: Path) -> None:
    file = write(tmp_path / 'run', close=False)
    library = RunLibrary({'': tmp_path})
    first = library.answer(['run'])
    assert data(first)['runs'][0]['about']['iterations'] == 2
    assert first.told[0]['state'] == 'running'
    assert library.answer(['run'], first.version).data is None
    file.publish(Record(7, {'grad/model/_total_norm': 2.0}))
    second = library.answer(['run'], first.version)
    assert data(second)['runs'][0]['about']['iterations'] == 7
    assert second.version != first.version
    file.close()
    assert library.answer(['run']).told[0]['state'] == 'ended'


def test_what_takes_long_to_read_is_not_read_all_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, '_REST', 1000.0)
    file = write(tmp_path / 'run', close=False)
    library = RunLibrary({'': tmp_path})
    first = library.answer(['run'])
    file.publish(Record(7, {'grad/model/_total_norm': 2.0}))
    assert library.answer(['run'], first.version).data is None
    assert library.answer(['run']).version == first.version
    file.close()


def test_silence_is_told_without_a_new_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / 'run', close=False)
    library = RunLibrary({'': tmp_path})
    first = library.answer(['run'])
    now = time.time()
    monkeypatch.setattr(time, 'time', lambda: now + 500)
    later = library.answer(['run'], first.version)
    assert later.data is None
    assert later.told[0]['state'] == 'silent'
    assert later.told[0]['silent'] == pytest.approx(500, abs=5)
    file.close()


def test_several_runs_are_one_page(tmp_path: Path) -> None:
    for name in ('a/run', 'b/run'):
        write(tmp_path / name)
    both = data(RunLibrary({'': tmp_path}).answer(['a/run', 'b/run', 'a/run']))
    assert [run['name'] for run in both['runs']] == ['a/run', 'b/run']


@pytest.mark.parametrize('name', ['', '../secret', '/etc', 'run/../../secret', 'ru'])
def test_only_runs_below_the_folder_are_read(name: str, tmp_path: Path) -> None:
    write(tmp_path / 'secret')
    write(tmp_path / 'runs' / 'run')
    library = RunLibrary({'': tmp_path / 'runs'})
    with pytest.raises(UnknownRunError):
        library.answer([name])
    with pytest.raises(UnknownRunError):
        library.answer([])


def test_a_file_that_shrinks_is_read_again_or_refused(tmp_path: Path) -> None:
    write(tmp_path / 'run')
    path = tmp_path / 'run' / 'history.arrows'
    library = RunLibrary({'': tmp_path})
    library.answer(['run'])
    os.truncate(path, 10)
    with pytest.raises(RunError, match='no points'):
        library.answer(['run'])
    path.unlink()
    write(tmp_path / 'run', range(20, 25))
    assert data(library.answer(['run']))['runs'][0]['about']['iterations'] == 24
