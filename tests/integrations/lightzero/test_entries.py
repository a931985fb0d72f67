"""LightZero's own entries, run as its users run them: what the monitor leaves behind, and that nothing else differs."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ding_normmon.runs import read_run
from tests.integrations.lightzero.zoo_files import ENTRIES, run, zoo_file

DUE = [0, 7, 14, 21, 28]
BY_RUN = ('-m', 'ding_normmon', 'run', '--monitor', 'monitor_norm_freq=7')


@pytest.fixture(scope='session')
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the folder in which an entry ran without the monitor; each runs once."""

    @functools.cache
    def folder(entry: str) -> Path:
        path = tmp_path_factory.mktemp(entry)
        done = run(path, zoo_file(entry))
        assert done.returncode == 0, done.stderr[-3000:]
        return path

    return folder


def checkpoints(folder: Path) -> dict[str, Any]:
    return {path.name: torch.load(path, weights_only=False) for path in sorted(folder.glob('data/run/ckpt/*.pth.tar'))}


def assert_equal(first: Any, second: Any, where: str = '') -> None:
    """See to it that two checkpoints are the same to the last bit: weights, optimizer, counters."""
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert list(first) == list(second), where
        for key in first:
            assert_equal(first[key], second[key], f'{where}/{key}')
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_equal(one, other, f'{where}/{index}')
    else:
        assert first == second, where


def assert_monitored(folder: Path, reference: Path) -> None:
    found, expected = checkpoints(folder), checkpoints(reference)
    assert {'iteration_0.pth.tar', 'iteration_30.pth.tar'} <= set(expected)
    assert_equal(found, expected)
    [history] = folder.rglob('history.arrows')
    [events] = folder.rglob('*tfevents*')
    assert history.parent == events.parent
    accumulator = EventAccumulator(str(events), size_guidance={'scalars': 0})
    accumulator.Reload()
    recorded = read_run(history)
    names = ('norm/model/_total_norm', 'grad/model/_total_norm', 'grad/encoder/_total_norm', 'logits/value/mean')
    for name in names:
        assert [point.step for point in accumulator.Scalars(name)] == DUE, name
        assert recorded.series[name].iterations.tolist() == DUE, name
        values = [point.value for point in accumulator.Scalars(name)]
        assert values == pytest.approx(recorded.series[name].values.tolist(), rel=1e-6), name
    [plain_events] = reference.rglob('*tfevents*')
    before = EventAccumulator(str(plain_events), size_guidance={'scalars': 0})
    before.Reload()
    assert before.Tags()['scalars']
    for name in before.Tags()['scalars']:
        steps = [[point.step for point in events.Scalars(name)] for events in (before, accumulator)]
        assert steps[0] == steps[1], name
    assert not any(name.startswith('monitor/lost') for name in recorded.series)


def normmon(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, '-m', 'ding_normmon', *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


_REST = [pytest.param(entry, marks=pytest.mark.full) for entry in ENTRIES if entry != 'train_unizero']


@pytest.mark.slow
@pytest.mark.parametrize('entry', ['train_unizero', *_REST])
def test_an_untouched_file_by_normmon_run(tmp_path: Path, plain: Any, entry: str) -> None:
    done = run(tmp_path, zoo_file(entry), *BY_RUN)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_monitored(tmp_path, plain(entry))
    [line] = [line for line in done.stderr.splitlines() if line.startswith('normmon run:')]
    for part in ("learner 'learner'", 'every 7 iterations', 'encoder', 'head_value', 'logits/policy', 'a single one'):
        assert part in line
    judged = normmon('diagnose', str(tmp_path / 'data' / 'run'), '--format', 'json')
    assert judged.returncode in (0, 1, 2), judged.stderr
    assert json.loads(judged.stdout)['records'] == len(DUE)
    page = normmon('report', str(tmp_path / 'data' / 'run'))
    assert page.returncode == 0, page.stderr
    assert (tmp_path / 'data' / 'run' / 'report.html').stat().st_size > 100_000


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize('entry', ENTRIES)
def test_two_lines_in_the_file(tmp_path: Path, plain: Any, entry: str) -> None:
    done = run(tmp_path, zoo_file(entry, hook='monitor_norm_freq=7'))
    assert done.returncode == 0, done.stderr[-3000:]
    assert_monitored(tmp_path, plain(entry))
    total: dict[str, Any] = {}
    exec((tmp_path / 'data' / 'run' / 'total_config.py').read_text(), total)
    [written] = [value for value in total.values() if isinstance(value, dict) and 'policy' in value]
    assert written['policy']['learn']['learner']['hook']['norm_monitor']['ext_args'] == {'monitor_norm_freq': 7}
