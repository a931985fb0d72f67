"""``normmon run``: a program runs as Python would run it, and ends as it would end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MONITORED = ('-m', 'ding_normmon', 'run', '--monitor', 'monitor_norm_freq=1')


def start(folder: Path, *command: str) -> subprocess.Popen[str]:
    variables = {**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHONFAULTHANDLER': ''}
    pipes: dict[str, Any] = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE}
    return subprocess.Popen([sys.executable, *command], cwd=folder, env=variables, text=True, **pipes)


def both(folder: Path, *arguments: str) -> list[tuple[int, str, str]]:
    """Return exit code and output of a program by itself and with the monitor."""
    found = []
    for prefix in ((), MONITORED):
        process = start(folder, *prefix, *arguments)
        output, errors = process.communicate(timeout=60)
        found.append((process.returncode, output, errors))
    return found


def test_a_script_finds_what_it_finds_without(tmp_path: Path) -> None:
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / 'beside.py').write_text('VALUE = 5\n')
    (tmp_path / 'folder' / 'script.py').write_text(
        'import sys\nimport beside\n'
        'print(beside.VALUE, sys.argv, __name__, __file__, sys.path, sys.modules["__main__"].beside.VALUE)\n'
        'print(sorted({"torch", "ding", "lzero"} & set(sys.modules)))\n'
    )
    plain, monitored = both(tmp_path, 'folder/script.py', '--monitor', 'x=1', '-m', '--help')
    assert plain[:2] == monitored[:2]
    assert plain[0] == 0
    assert 'nothing was monitored' in monitored[2]


def test_a_module_finds_what_it_finds_without(tmp_path: Path) -> None:
    (tmp_path / 'package').mkdir()
    (tmp_path / 'package' / '__init__.py').write_text('')
    (tmp_path / 'package' / 'part.py').write_text('VALUE = 5\n')
    (tmp_path / 'package' / 'program.py').write_text(
        'import sys\nfrom .part import VALUE\nprint(VALUE, sys.argv, __name__, __package__, sys.path)\n'
    )
    plain, monitored = both(tmp_path, '-m', 'package.program', '--seed', '1')
    assert plain[0] == 0
    assert plain[:2] == monitored[:2]


@pytest.mark.parametrize(
    ('ending', 'code'),
    [
        ('raise SystemExit(7)', 7),
        ('sys.exit()', 0),
        ('sys.exit("no data")', 1),
        ('raise ValueError("of the script")', 1),
        ('os.kill(os.getpid(), signal.SIGTERM)', -signal.SIGTERM),
    ],
)
def test_a_program_ends_as_it_ends_without(tmp_path: Path, ending: str, code: int) -> None:
    (tmp_path / 'script.py').write_text(f'import os, signal, sys\nprint("begun", flush=True)\n{ending}\n')
    plain, monitored = both(tmp_path, 'script.py')
    assert plain[0] == monitored[0] == code
    assert plain[1] == monitored[1] == 'begun\n'
    last = [text.splitlines()[-1:] for text in (plain[2], monitored[2].replace('normmon run:', ''))]
    if plain[2]:
        assert last[0] == last[1]


def test_ctrl_c_ends_a_program_as_it_ends_without(tmp_path: Path) -> None:
    (tmp_path / 'script.py').write_text(
        'import time\nprint("begun", flush=True)\n'
        'try:\n    time.sleep(60)\nfinally:\n    print("cleaned", flush=True)\n'
    )
    codes = []
    for prefix in ((), MONITORED):
        process = start(tmp_path, *prefix, 'script.py')
        assert process.stdout is not None
        assert process.stdout.readline() == 'begun\n'
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
        codes.append(process.returncode)
        assert output == 'cleaned\n'
        assert errors.splitlines()[-1] == 'KeyboardInterrupt'
    assert codes[0] == codes[1] != 0


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--monitor', 'monitor_norm_frequency=1', 'script.py'), 'the nearest is monitor_norm_freq'),
        (('--monitor', 'preset', 'script.py'), 'expected KEY=VALUE'),
        (('--monitor', 'rules=1', '--monitor', 'rules.spike=False', 'script.py'), 'rules was given a value before'),
        (('--monitor', 'preset=everything', 'script.py'), "'basic', 'multitask' or 'full'"),
        (('no_such_file.py',), 'there is no such file'),
        ((), "Missing argument 'SCRIPT'"),
    ],
)
def test_a_mistake_is_a_sentence_and_nothing_runs(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    (tmp_path / 'script.py').write_text('print("ran")\n')
    process = start(tmp_path, '-m', 'ding_normmon', 'run', *arguments)
    output, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert output == ''
    assert message in errors
    assert 'Traceback' not in errors


_RANKS = """\
import os
import torch
import torch.distributed as dist
from tests.integrations.ding_engine.policies import CASES

dist.init_process_group('gloo')
torch.manual_seed(0)
policy = CASES['DQN'].make()
view, generator = policy.learn_mode, torch.Generator().manual_seed(dist.get_rank())
for _ in range(3):
    view.forward(*CASES['DQN'].batch(generator))
    dist.barrier()
print(f'rank {dist.get_rank()} ended\\n', end='', flush=True)
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.full
def test_several_ranks_under_torchrun(tmp_path: Path) -> None:
    (tmp_path / 'script.py').write_text(_RANKS)
    launch = ('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2')
    # torchrun takes --monitor for its own --monitor-interval.
    process = start(tmp_path, *launch, '-m', 'ding_normmon', 'run', '--set', 'monitor_norm_freq=1', 'script.py')
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors[-3000:]
    assert 'rank 0 ended' in output
    assert 'rank 1 ended' in output
    assert errors.count('normmon run: monitors the loop (DI-engine DQNPolicy) every 1 iterations') == 1
