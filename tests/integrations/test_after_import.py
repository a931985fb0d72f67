"""A function is called as soon as a module is imported, and imports are as they were afterwards."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from ding_normmon.integrations.after_import import after_import


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / 'some_package').mkdir()
    (tmp_path / 'some_package' / '__init__.py').write_text('')
    (tmp_path / 'some_package' / 'part.py').write_text('VALUE = 5\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ('some_package', 'some_package.part'):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return 'some_package.part'


def test_a_later_import_is_told_once_after_the_module_has_run(module: str) -> None:
    told: list[int] = []
    before = list(sys.meta_path)
    with after_import({module: lambda found: told.append(found.VALUE)}):
        assert told == []
        for _ in range(2):
            importlib.import_module(module)
        assert told == [5]
    assert sys.meta_path == before


def test_after_the_block_nothing_is_told(module: str) -> None:
    told: list[str] = []
    with after_import({module: lambda found: told.append('told')}):
        pass
    importlib.import_module(module)
    assert told == []


def test_a_module_that_does_not_exist_or_fails_is_as_without(tmp_path: Path, module: str) -> None:
    (tmp_path / 'some_package' / 'broken.py').write_text('raise ValueError("broken")\n')
    told: list[str] = []
    functions = {name: lambda found: told.append('told') for name in ('some_package.none', 'some_package.broken')}
    with after_import(functions):
        with pytest.raises(ModuleNotFoundError, match=r'some_package\.none'):
            importlib.import_module('some_package.none')
        with pytest.raises(ValueError, match='broken'):
            importlib.import_module('some_package.broken')
    assert told == []
