"""TensorBoard's side of the tab: how it is found, which folders it looks at, and that it slows no start down."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.plugins import base_plugin

from ding_normmon.runs.live import plugin
from ding_normmon.runs.live.plugin import Loader, NormmonPlugin
from tests.runs.live.training import write


def context(logdir: str = '', logdir_spec: str = '') -> Any:
    return SimpleNamespace(logdir=logdir, flags=SimpleNamespace(logdir=logdir, logdir_spec=logdir_spec))


def test_tensorboard_finds_it() -> None:
    found = [
        entry for entry in importlib.metadata.entry_points(group='tensorboard_plugins') if entry.name == 'ding_normmon'
    ]
    assert found, 'the environment is older than setup.py: make env'
    assert issubclass(found[0].load(), base_plugin.TBLoader)


def test_it_is_active_where_there_are_runs(tmp_path: Path) -> None:
    made = Loader().load(context(str(tmp_path)))
    assert isinstance(made, NormmonPlugin)
    assert not made.is_active()
    write(tmp_path / 'run')
    assert Loader().load(context(str(tmp_path))).is_active()  # type: ignore[union-attr]
    metadata = made.frontend_metadata()
    assert metadata.es_module_path in made.get_plugin_apps()
    assert metadata.tab_name == 'Normmon'


@pytest.mark.parametrize('spec', ['one:{0}/a,two:{0}/b', 'one:{0}/a,two:{0}/b,far:gs://bucket/runs'])
def test_named_folders_name_their_runs(spec: str, tmp_path: Path) -> None:
    write(tmp_path / 'a' / 'seed0')
    write(tmp_path / 'b')
    made = NormmonPlugin(context(logdir_spec=spec.format(tmp_path)))
    assert {run['name'] for run in made._library.runs()} == {'one/seed0', 'two'}


@pytest.mark.parametrize('logdir', ['', 'gs://bucket/runs', '/no/such/folder'])
def test_what_is_not_here_has_no_tab(logdir: str) -> None:
    assert not NormmonPlugin(context(logdir)).is_active()


def test_a_missing_package_costs_the_tab_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plugin.importlib.util, 'find_spec', lambda name: None)
    with caplog.at_level(logging.WARNING, 'ding_normmon'):
        assert Loader().load(context('runs')) is None
    assert 'pyarrow is missing' in caplog.text


def test_the_start_of_tensorboard_imports_nothing_slow(tmp_path: Path) -> None:
    write(tmp_path / 'run')
    program = (
        'import sys\nfrom types import SimpleNamespace\nfrom ding_normmon.runs.live.plugin import Loader\n'
        f'made = Loader().load(SimpleNamespace(logdir={str(tmp_path)!r}, flags=None))\n'
        'made.get_plugin_apps(), made.frontend_metadata()\nassert made.is_active()\n'
        'slow = {"torch", "pyarrow", "ding", "lzero", "tensorboardX"} & set(sys.modules)\nassert not slow, slow'
    )
    subprocess.run([sys.executable, '-c', program], check=True, timeout=120)
