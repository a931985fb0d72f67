"""Starting the training script the way a user does, with settings small enough for a test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / 'entry' / 'train_unizero_multitask.py'

TINY = {
    'policy.collector_env_num': 2,
    'policy.evaluator_env_num': 2,
    'policy.batch_size': 8,
    'policy.num_simulations': 2,
    'policy.update_per_collect': 10,
    'policy.game_segment_length': 10,
    'policy.model.world_model_cfg.embed_dim': 16,
    'policy.model.world_model_cfg.num_heads': 2,
    'policy.monitor.monitor_norm_freq': 5,
    'collect.steps_per_environment': 20,
    'evaluate.episodes': 2,
    'random_policy.episodes': 2,
    'log.progress_seconds': 0,
}


def command(ranks: int, folder: Path, *arguments: str, config: str = 'minigrid', **settings: object) -> list[str]:
    """Return the command line of a run; ``settings`` are further keys, with ``__`` for the dots."""
    changes = {**TINY, **{key.replace('__', '.'): value for key, value in settings.items()}}
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={ranks}']
    options = [f'--set={key}={value}' for key, value in changes.items()]
    return [*launcher, str(SCRIPT), '--config', config, '--exp-name', str(folder), *options, *arguments]


def environment(**extra: str) -> dict[str, str]:
    """Return the environment variables of a run: one thread per rank, this checkout's package, no launcher's own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(('PYTEST', 'TORCHELASTIC'))}
    for key in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'):
        kept.pop(key, None)
    return {**kept, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT), **extra}


def train(ranks: int, folder: Path, *arguments: str, timeout: float = 150, **settings: object) -> str:
    """Run to the end and return everything printed; fail with it if the exit code is not 0."""
    process = subprocess.Popen(
        command(ranks, folder, *arguments, **settings),  # type: ignore[arg-type]
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        # torchrun's ranks have sessions of their own: only torchrun can end them, and SIGKILL gives it no time to.
        process.terminate()
        output, _ = process.communicate(timeout=60)
        raise AssertionError(f'not finished after {timeout} s:\n{output}') from None
    assert process.returncode == 0, output
    return output


def kill_when(process: subprocess.Popen[str], line_has: str, timeout: float = 120) -> str:
    """Read the process's output until a line has ``line_has`` and kill it, so that it can bring nothing to an end."""
    return interrupt_when(process, line_has, timeout, signal.SIGKILL)


def interrupt_when(
    process: subprocess.Popen[str], line_has: str, timeout: float = 120, by: signal.Signals = signal.SIGINT
) -> str:
    """Read the process's output until a line has ``line_has``, send it a signal, and return all of its output."""
    assert process.stdout is not None
    output = []
    deadline = time.monotonic() + timeout
    for line in process.stdout:
        output.append(line)
        if line_has in line:
            process.send_signal(by)
            break
        assert time.monotonic() < deadline, ''.join(output)
    rest, _ = process.communicate(timeout=timeout)
    return ''.join(output) + rest
