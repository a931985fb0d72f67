"""Make `.venv`, or check in a moment that it is complete: what `make env` runs, with the standard library only.

The environment is complete when `.venv/.stamp` holds the checksum of everything that decides what belongs in it
(requirements, setup.py, the C sources, this file, the Python version, the folder). The stamp is removed before pip
starts and written in one move after everything has succeeded, so an installation that was interrupted is found and
repaired by the next call: a package that did not arrive whole is dropped and installed again, the others stay. Two
calls at once take turns.

Of the user's pip settings only those that say where packages come from (index, proxy, certificates, ...) are kept;
settings that say how to install (`user`, `target`, `require-virtualenv`, ...) would break an environment like this one.
"""

from __future__ import annotations

import ast
import contextlib
import csv
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / '.venv'
PYTHON = VENV / 'bin' / 'python'
STAMP = VENV / '.stamp'
LOCK = VENV / '.make.lock'
OURS = VENV / '.made-by-make'
LOG = VENV / 'install.log'
REQUIREMENTS = ROOT / 'requirements.txt'

KEPT_PIP_SETTINGS = {
    *('index-url', 'extra-index-url', 'find-links', 'no-index'),
    *('trusted-host', 'cert', 'client-cert', 'keyring-provider', 'proxy'),
    *('timeout', 'default-timeout', 'retries', 'cache-dir', 'no-cache-dir', 'use-feature', 'use-deprecated'),
}


class SetupError(Exception):
    """Why the environment could not be made: one message for the user."""


def say(text: str) -> None:
    """Print one progress line at once."""
    print(f'[env] {text}', flush=True)


def checksum() -> str:
    """The checksum of everything that decides what belongs in the environment."""
    digest = hashlib.sha256()
    for path in (REQUIREMENTS, ROOT / 'setup.py', Path(__file__), *sorted((ROOT / 'ding_normmon').rglob('*.[ch]'))):
        digest.update(path.read_bytes())
    version = '.'.join(map(str, sys.version_info[:3]))
    digest.update(f'{version}\0{ROOT}'.encode())
    return digest.hexdigest()


def is_complete() -> bool:
    """Whether `.venv` has everything that the checksum stands for."""
    try:
        return PYTHON.exists() and STAMP.read_text() == checksum()
    except OSError:
        return False


@contextlib.contextmanager
def lock() -> Iterator[IO[str]]:
    """Hold `.venv` for one installation; a second call waits. Where the file system has no locks, go on without."""
    VENV.mkdir(exist_ok=True)
    with LOCK.open('a') as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say('another installation into .venv is under way: waiting for it')
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            pass
        yield handle


def python_version_in_venv() -> str | None:
    """Like '3.11', or None where `.venv` has no working interpreter with pip."""
    probe = 'import sys, pip; print("%d.%d" % sys.version_info[:2])'
    try:
        done = subprocess.run([PYTHON, '-c', probe], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def make_venv() -> None:
    """Create the bare environment where there is no usable one. A folder that make did not create is never emptied."""
    wanted = '{}.{}'.format(*sys.version_info[:2])
    found = python_version_in_venv()
    if found == wanted:
        return
    if not OURS.exists() and any(path != LOCK for path in VENV.iterdir()):
        kind = f'has Python {found}' if found else 'has no working Python with pip'
        raise SetupError(f'.venv {kind} and was not made by make: move it away, then try again')
    OURS.touch()
    for path in set(VENV.iterdir()) - {LOCK, OURS}:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    base = getattr(sys, '_base_executable', sys.executable)  # this may run on the interpreter that was just removed
    done = subprocess.run([base, '-m', 'venv', VENV], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetupError(f'{base} -m venv failed:\n{done.stdout}{done.stderr}'.rstrip())


def is_whole(dist_info: Path) -> bool:
    """Whether a package arrived whole: pip writes INSTALLER last, and RECORD lists every file with its size."""
    try:
        with (dist_info / 'RECORD').open(newline='', encoding='utf-8') as lines:
            sizes = {row[0]: row[2] for row in csv.reader(lines) if len(row) == 3}
        return (dist_info / 'INSTALLER').exists() and all(
            os.stat(dist_info.parent / path).st_size == int(size)
            for path, size in sizes.items()
            if size and not path.endswith('.pyc')
        )
    except (OSError, ValueError):
        return False


def drop_broken_packages() -> None:
    """Make pip forget every package that did not arrive whole, so that it installs it again."""
    for dist_info in VENV.glob('lib/python*/site-packages/*.dist-info'):
        if not is_whole(dist_info):
            say(f'{dist_info.name.removesuffix(".dist-info")} did not arrive whole: installing it again')
            shutil.rmtree(dist_info)
    for left_over in VENV.glob('lib/python*/site-packages/~*'):  # what an upgrade had put aside
        shutil.rmtree(left_over, ignore_errors=True)


def pip_environment() -> dict[str, str]:
    """The environment variables for pip: the user's, with the pip settings reduced to those that are kept."""
    env = {key: value for key, value in os.environ.items() if key not in ('PYTHONPATH', 'PYTHONHOME')}
    command = [str(PYTHON), '-m', 'pip', 'config', 'list']
    listing = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    env = {key: value for key, value in env.items() if not key.startswith('PIP_')}
    settings: dict[str, dict[str, str]] = {'global': {}, 'install': {}, ':env:': {}}  # a later one wins
    for line in listing.stdout.splitlines() if listing.returncode == 0 else ():
        name, _, value = line.partition('=')
        section, _, key = name.rpartition('.')
        if section in settings and key in KEPT_PIP_SETTINGS:
            with contextlib.suppress(ValueError, SyntaxError):
                settings[section][key] = str(ast.literal_eval(value))
    for kept in settings.values():
        env.update({f'PIP_{key.upper().replace("-", "_")}': value for key, value in kept.items()})
    env.update(PIP_CONFIG_FILE=os.devnull, PIP_DISABLE_PIP_VERSION_CHECK='1', PIP_NO_INPUT='1', PYTHONUNBUFFERED='1')
    return env


def pip_install(arguments: list[str], env: dict[str, str], held: IO[str], total: int = 0) -> None:
    """Run `pip install`; its output goes to a log, and every twentieth package gives a progress line.

    Args:
        arguments: What to install, and how.
        env: Environment variables for pip.
        held: The lock file. pip inherits it, so that a pip that outlives this process still holds the lock.
        total: Number of packages, for the progress lines; 0 for none.
    """
    command = [str(PYTHON), '-m', 'pip', 'install', '--progress-bar', 'off', *arguments]
    seen = 0
    with LOG.open('a', encoding='utf-8') as log:
        start = log.tell()
        pip = subprocess.Popen(
            command,
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
            pass_fds=[held.fileno()],
        )
        assert pip.stdout is not None
        for line in pip.stdout:
            log.write(line)
            if line.startswith('  Downloading') and re.search(r'\((\d+\.\d GB|\d{3,}\.\d MB)\)', line):
                say(f'  downloading {line.split()[1].rpartition("/")[2]} {" ".join(line.split()[2:])}')
            if total and line.startswith(('Collecting ', 'Processing ', 'Requirement already satisfied')):
                seen += 1
                if seen % 20 == 0:
                    say(f'  {seen} of {total}')
            elif line.startswith('Installing collected'):
                say('  copying files')
        status = pip.wait()
    if status:
        with LOG.open(encoding='utf-8') as log:
            log.seek(start)
            tail = log.read().splitlines()[-25:]
        raise SetupError(
            '\n'.join(tail) + f'\n[env] pip failed with exit status {status}. All of its output: .venv/install.log'
            '\n[env] What is installed stays; run the same command again to go on.'
        )


def install(held: IO[str]) -> None:
    """Install torch, then everything else as pinned, then the project itself."""
    pins = [line.split('#')[0].strip() for line in REQUIREMENTS.read_text(encoding='utf-8').splitlines()]
    pins = [pin for pin in pins if pin]
    torch = next(pin for pin in pins if pin.startswith('torch=='))
    env = pip_environment()
    index = os.environ.get('TORCH_INDEX', '')
    LOG.write_text('')
    say(f'1/3 {torch} (the largest download)')
    pip_install([torch, '-c', str(REQUIREMENTS), *(['--extra-index-url', index] if index else [])], env, held)
    say(f'2/3 {len(pins)} packages from requirements.txt')
    pip_install(['--no-deps', '--no-build-isolation', '-r', str(REQUIREMENTS)], env, held, len(pins))
    say('3/3 ding_normmon')
    pip_install(['--no-deps', '--no-build-isolation', '-e', str(ROOT)], env, held)


def main() -> int:
    """Return the exit status."""
    if is_complete():
        return 0
    begin = time.monotonic()
    try:
        version = '{}.{}.{}'.format(*sys.version_info[:3])
        say(f'making .venv with Python {version}: once, about two minutes' if not PYTHON.exists() else 'updating .venv')
        with lock() as held:
            if is_complete():
                say('the other installation has made it')
                return 0
            STAMP.unlink(missing_ok=True)
            make_venv()
            drop_broken_packages()
            install(held)
            fresh = STAMP.with_suffix('.new')
            fresh.write_text(checksum())
            fresh.replace(STAMP)
    except SetupError as error:
        print(f'[env] {error}', file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print('\n[env] interrupted; the next call goes on from here', file=sys.stderr, flush=True)
        return 130
    say(f'.venv is ready after {time.monotonic() - begin:.0f} s')
    return 0


if __name__ == '__main__':
    sys.exit(main())
