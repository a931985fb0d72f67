"""What gets built and installed: contents, metadata, requirements, and an import that needs neither framework."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from ding_normmon.metrics.kernels import native

ROOT = Path(__file__).resolve().parent.parent
VERSION = '0.1.0'
COMPILER = shutil.which('cc')

needs_compiler = pytest.mark.skipif(COMPILER is None, reason='there is no C compiler')

BLOCKED_IMPORT = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('ding', 'lzero'):
            raise ImportError(f'{name} is blocked')

sys.meta_path.insert(0, Block())
import ding_normmon
from ding_normmon import Monitor
assert not {'ding', 'lzero'} & set(sys.modules)
print(ding_normmon.__version__)
"""


def pins() -> dict[str, str]:
    """The pinned version of every package in requirements.txt."""
    text = (ROOT / 'requirements.txt').read_text(encoding='utf-8')
    lines = [line.split('#')[0].strip() for line in text.splitlines()]
    return dict(line.split('==') for line in lines if line)


@pytest.fixture(scope='module')
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive, built from a copy of the sources."""
    folder = tmp_path_factory.mktemp('packaging')
    source = folder / 'source'
    unwanted = shutil.ignore_patterns('.*', '__pycache__', '*.egg-info', 'build', 'dist')
    shutil.copytree(
        ROOT, source, ignore=lambda path, names: {*unwanted(path, names), *(('runs',) if Path(path) == ROOT else ())}
    )
    command = [sys.executable, '-m', 'build', '--no-isolation', '--outdir', str(folder / 'dist'), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / 'dist'


@pytest.fixture(scope='module')
def metadata(built: Path) -> Message:
    """The METADATA of the built wheel."""
    with zipfile.ZipFile(next(built.glob('*.whl'))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith('.dist-info/METADATA'))
        return Parser().parsestr(wheel.read(name).decode())


@pytest.mark.slow
@pytest.mark.xdist_group('packaging')
class TestArchives:
    def test_wheel_holds_the_typed_package_and_nothing_else(self, built: Path) -> None:
        with zipfile.ZipFile(next(built.glob('*.whl'))) as wheel:
            names = wheel.namelist()
        assert {'ding_normmon/__init__.py', 'ding_normmon/py.typed'} <= set(names)
        assert {name.split('/')[0] for name in names} == {'ding_normmon', f'ding_normmon-{VERSION}.dist-info'}
        assert any(name.endswith('/LICENSE') for name in names)

    def test_wheel_holds_every_module_of_the_package(self, built: Path) -> None:
        with zipfile.ZipFile(next(built.glob('*.whl'))) as wheel:
            names = set(wheel.namelist())
        modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / 'ding_normmon').rglob('*.py')}
        assert modules <= names, 'a folder without __init__.py is left out of the wheel'

    @needs_compiler
    def test_wheel_holds_what_was_compiled_for_any_python(self, built: Path) -> None:
        wheel_file = next(built.glob('*.whl'))
        assert '-cp310-abi3-' in wheel_file.name
        with zipfile.ZipFile(wheel_file) as wheel:
            native = {name for name in wheel.namelist() if name.startswith('ding_normmon/metrics/kernels/native/')}
        assert {Path(name).name for name in native} == {'__init__.py', '_kernels.abi3.so', '_kernels.pyi'}

    def test_source_archive_has_no_tests(self, built: Path) -> None:
        with tarfile.open(next(built.glob('*.tar.gz'))) as archive:
            names = {name.partition('/')[2] for name in archive.getnames()}
        assert {'ding_normmon/py.typed', 'LICENSE', 'setup.py', 'pyproject.toml', 'requirements.txt'} <= names
        assert {f'ding_normmon/metrics/kernels/native/{name}' for name in ('kernels.c', 'sums.h', 'tensor.h')} <= names
        assert not any(name.startswith('tests') for name in names)

    def test_metadata(self, metadata: Message) -> None:
        assert metadata['Name'].replace('-', '_') == 'ding_normmon'
        assert metadata['Version'] == VERSION
        python = SpecifierSet(metadata['Requires-Python'])
        assert [v for v in ('3.9', '3.10', '3.11', '3.12', '3.13') if v in python] == ['3.10', '3.11', '3.12', '3.13']

    def test_plain_install_asks_for_little_and_changes_nothing(self, metadata: Message) -> None:
        needed = [Requirement(text) for text in metadata.get_all('Requires-Dist', [])]
        plain = [need for need in needed if need.marker is None]
        assert {need.name for need in plain} == {'torch', 'numpy', 'easydict', 'tensorboardX', 'crc32c'}
        assert all('<' not in str(need.specifier) and '==' not in str(need.specifier) for need in plain)

    def test_every_requirement_is_met_by_the_pinned_environment(self, metadata: Message) -> None:
        listed = {name.lower(): version for name, version in pins().items()}
        for need in (Requirement(text) for text in metadata.get_all('Requires-Dist', [])):
            assert listed[need.name.lower()] in need.specifier, f'requirements.txt does not meet {need}'


def _with_all_it_needs(name: str, found: set[str]) -> set[str]:
    """The distributions that one needs, itself included, as far as they are installed."""
    if name.lower() in found:
        return found
    try:
        needs = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return found
    found.add(name.lower())
    for need in map(Requirement, needs):
        if need.marker is None or need.marker.evaluate({'extra': ''}):
            _with_all_it_needs(need.name, found)
    return found


def _link(name: str, site_packages: Path) -> None:
    """Make one installed distribution visible in another environment."""
    distribution = importlib.metadata.distribution(name)
    for file in {Path(str(path)).parts[0] for path in distribution.files or ()} - {'..', '__pycache__'}:
        target = site_packages / file
        if not target.exists():
            target.symlink_to(Path(str(distribution.locate_file(file))).resolve())


@pytest.fixture(scope='module')
def clean_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that holds torch, as its users' environments do, and nothing else."""
    folder = tmp_path_factory.mktemp('clean')
    subprocess.run([sys.executable, '-m', 'venv', str(folder)], check=True, timeout=120)
    python = folder / 'bin' / 'python'
    site_packages = next((folder / 'lib').glob('python3*')) / 'site-packages'
    for name in _with_all_it_needs('torch', set()) - {'setuptools', 'pip'}:
        _link(name, site_packages)
    return python


def _run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False, timeout=240)


@pytest.mark.slow
@pytest.mark.xdist_group('packaging')
class TestCleanEnvironment:
    """In an environment with torch and without DI-engine, LightZero and everything that reads runs."""

    @pytest.mark.full
    def test_the_wheel_brings_little_and_measures(self, built: Path, clean_python: Path, tmp_path: Path) -> None:
        done = _run(clean_python, '-m', 'pip', 'install', next(built.glob('*.whl')), cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert 'Installing collected packages:' in done.stdout
        brought = done.stdout.partition('Installing collected packages:')[2].splitlines()[0].split(',')
        small = {'crc32c', 'easydict', 'numpy', 'packaging', 'protobuf', 'setuptools', 'tensorboardx'}
        assert {name.strip().lower().replace('_', '-') for name in brought} <= small | {'ding-normmon'}
        page = (ROOT / 'docs' / 'add_it.md').read_text(encoding='utf-8')
        loop = page.partition('## A plain loop')[2].partition('```python')[2].partition('```')[0]
        assert 'Monitor(model' in loop
        done = _run(clean_python, '-c', loop, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert float(done.stdout) > 0

    @pytest.mark.full
    def test_a_missing_extra_is_a_sentence(self, clean_python: Path, tmp_path: Path) -> None:
        done = _run(clean_python.parent / 'normmon', 'report', '.', cwd=tmp_path)
        assert done.returncode == 3
        assert done.stderr == 'normmon needs the package click: pip install click tabulate\n'
        done = _run(clean_python, '-c', 'from ding_normmon import NormMonitor', cwd=tmp_path)
        assert done.returncode == 1
        needs = 'NormMonitor needs DI-engine, and the package ding is missing: pip install DI-engine'
        assert done.stderr.splitlines()[-1] == f'ImportError: {needs}'

    @pytest.mark.parametrize('compiler', [pytest.param('cc', marks=needs_compiler), 'no-such-compiler'])
    @pytest.mark.full
    def test_the_source_archive_installs(
        self, built: Path, clean_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str
    ) -> None:
        archive = next(built.glob('*.tar.gz'))
        monkeypatch.setenv('CC', compiler)
        install = ('-m', 'pip', 'install', '--force-reinstall', '--no-deps', '--no-cache-dir', archive)
        done = _run(clean_python, *install, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        code = (
            'import ding_normmon; from ding_normmon.metrics.kernels import native; '
            'print(ding_normmon.__version__, native.kernels)'
        )
        done = _run(clean_python, '-c', code, cwd=tmp_path)
        version, _, kernels = done.stdout.strip().partition(' ')
        assert version == VERSION, done.stderr
        assert (kernels == 'None') == (compiler != 'cc')


@needs_compiler
def test_what_can_be_compiled_is() -> None:
    """The build is optional: without this, sources that do not compile would be skipped in silence."""
    assert native.kernels is not None


def test_this_environment_is_the_pinned_one() -> None:
    found = {name: importlib.metadata.version(name).partition('+')[0] for name in pins()}
    assert found == pins()


def test_pinned_versions_meet_what_the_packages_declare() -> None:
    """`--no-deps` checks nothing, so this does: one disagreement is known, and torch's side of it is taken."""
    listed = {name.lower().replace('_', '-') for name in pins()}
    wrong = set()
    for name in pins():
        for need in map(Requirement, importlib.metadata.requires(name) or []):
            if need.marker is not None and not need.marker.evaluate({'extra': ''}):
                continue
            if need.name.lower().replace('_', '-') not in listed:
                if name != 'torch':  # its CUDA packages depend on the machine
                    wrong.add(f'{name} needs {need}, which is not listed')
            elif not need.specifier.contains(importlib.metadata.version(need.name), prereleases=True):
                wrong.add(f'{name} needs {need}')
    assert wrong == {'DI-engine needs setuptools<=66.1.1'}


@pytest.mark.slow
def test_import_needs_neither_ding_nor_lzero() -> None:
    command = [sys.executable, '-c', BLOCKED_IMPORT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == VERSION
