"""Run the tests that need no DI-engine and no LightZero on several Python versions: what `make test-matrix` runs.

LightZero has wheels up to Python 3.11 only; everything else of the package works on later ones. Every interpreter gets
an environment of its own in ``build/matrix``, which is kept. The package is not compiled there: that is tested by
``tests/test_packaging.py``, and its wheel serves every version.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ['numpy', 'easydict', 'tensorboardX', 'crc32c', 'setuptools', 'pytest', 'pytest-timeout', 'pytest-xdist']
PACKAGES += ['hypothesis', 'pyarrow', 'tensorboard']
TESTS = ['core', 'rows', 'metrics', 'monitor', 'diagnose', 'ranks']
WITH_A_FRAMEWORK = ['diagnose/test_planted_faults.py', 'metrics/reference/test_page.py', 'monitor/test_resume.py']
"""Tests in these folders that train a policy."""


def environment(interpreter: str) -> Path:
    """Make the environment of an interpreter, or find it; return its Python."""
    ask = [interpreter, '-c', 'import sys; print("{}.{}".format(*sys.version_info))']
    version = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    folder = ROOT / 'build' / 'matrix' / version
    python = folder / 'bin' / 'python'
    if not (folder / 'complete').exists():
        subprocess.run([interpreter, '-m', 'venv', str(folder)], check=True)
        install = [str(python), '-m', 'pip', 'install', '-q', 'torch>=2.6', *PACKAGES]
        index = os.environ.get('TORCH_INDEX')
        subprocess.run(install + (['--extra-index-url', index] if index else []), check=True)
        (folder / 'complete').touch()
    return python


def main() -> int:
    failed = []
    for name in sys.argv[1:]:
        interpreter = shutil.which(name)
        if interpreter is None:
            print(f'[matrix] {name}: no such interpreter here', flush=True)
            failed.append(name)
            continue
        python = environment(interpreter)
        command = [str(python), '-m', 'pytest', '-q', '-n', '0', '-p', 'no:cacheprovider']
        command += ['-m', 'not slow and not full and not distributed']
        command += [f'--ignore=tests/{path}' for path in WITH_A_FRAMEWORK]
        command += [f'tests/{folder}' for folder in TESTS]
        print(f'[matrix] {name}', flush=True)
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(name)
    print(f'[matrix] failed: {", ".join(failed)}' if failed else '[matrix] all passed', flush=True)
    return int(bool(failed))


if __name__ == '__main__':
    sys.exit(main())
