"""The hints that name a command to install what is missing."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest

from ding_normmon.core import install
from ding_normmon.core.install import install_command

PACKAGE = Path(install.__file__).parent.parent


def test_it_names_what_is_missing_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    distribution = importlib.metadata.distribution

    def without_two(name: str) -> importlib.metadata.Distribution:
        if name in ('pyarrow', 'rich'):
            raise importlib.metadata.PackageNotFoundError(name)
        return distribution(name)

    monkeypatch.setattr(install, 'distribution', without_two)
    assert install_command('report') == 'pip install pyarrow rich'


def test_a_package_that_was_never_installed_is_installed_from_its_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(install, 'requires', nothing)
    assert install_command('cli') == "pip install '.[cli]' (in the folder of the checkout)"


@pytest.mark.parametrize('extra', ['cli', 'history', 'report', 'wandb', 'train'])
def test_every_extra_has_packages(extra: str) -> None:
    assert re.fullmatch(r"pip install( [\w.-]+| '[\w.-]+[<>=!~][^']*')+", install_command(extra))


def test_no_hint_names_a_package_that_is_on_no_index() -> None:
    for path in PACKAGE.rglob('*.py'):
        assert not re.search(r'pip install [\'"]?ding_normmon', path.read_text(encoding='utf-8')), path
