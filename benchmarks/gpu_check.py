"""Everything that is promised of a GPU, checked and measured in one call that ends in time.

On a machine with Python 3.12, torch, pytest (with timeout and xdist) and hypothesis, and the wheels of easydict,
tensorboardX and crc32c (200 KB) in ``.whl``, from the project's folder::

    python3 -m pip install -q --no-index --no-deps --target /tmp/site .whl/*.whl && \
        PYTHONPATH=/tmp/site:. python3 -m benchmarks.gpu_check --seconds 420 --out "${OUT:-build/gpu}"

It takes ``--seconds`` (7 minutes) at most, and half a minute to start. With ``--device cpu --small`` it does the same
with reduced sizes in about two minutes, on the path of accelerators.

In this order: (1) the tests that need a GPU; (2) every figure against float64 on the host; (3) training to the last bit
the same; (4) copies, waits and launches; (5) cost at ScaleZero's size; (6) cost with busy streams, and of a learner
step of a few milliseconds. What fails in one part does not keep the others from running; what no time is left for is
listed. ``gpu_check.json`` and ``gpu_check.md`` are written after every part.

The model is a plain one with the parameters of multi-task UniZero (``benchmarks/gpu/world_model.py``), because
LightZero has no wheel for Python 3.12.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.correctness import SETTINGS, check_figures, check_graphs, check_inert
from benchmarks.gpu.cost import compare_norms, compare_steps
from benchmarks.gpu.counts import count_step
from benchmarks.gpu.world_model import Size
from tests.accelerator import take_accelerators_path

Entry = tuple[str, str, Callable[[], Any]]
"""Part, what is checked or measured, and the function that does it."""

SCALEZERO = Size(tasks=26)
TINY = Size(tasks=2, embed=32, layers=1, heads=2, batch=2, image=16)


def run_tests(device: torch.device, seconds: float) -> dict[str, Any]:
    """Run the tests that need a GPU in a process of their own."""
    options = ['-q', '-n', '0', '-p', 'no:cacheprovider']
    command = [sys.executable, '-m', 'pytest', 'tests/monitor/test_device.py', *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(('FAILED', 'ERROR'))]
    return {'result': lines[-1] if lines else done.stderr.strip()[-500:], 'failed': failed}


def entries(device: torch.device, small: bool, left: Callable[[], float]) -> Iterator[Entry]:
    """Yield all that is to be done, what matters most first within each part."""
    yield '1 tests', 'tests of the device', lambda: run_tests(device, min(120.0, left()))
    settings = SETTINGS
    if small:
        settings = {name: (preset, _for_a_cpu(options)) for name, (preset, options) in SETTINGS.items()}
    for name, (preset, options) in settings.items():
        yield '2 figures', name, lambda p=preset, o=options: check_figures(device, p, o)
    if device.type == 'cuda':
        yield '2 figures', 'CUDA graphs', lambda: check_graphs(device)
    for name in ('full, float32', 'full, bfloat16 weights', 'full, float16 autocast and GradScaler'):
        yield '3 inert', name, lambda p=settings[name][0], o=settings[name][1]: check_inert(device, p, o)
    base = TINY if small else SCALEZERO
    counts = (2, 3) if small else (26, 8, 2)
    turn = 0.5 if small else 8.0
    for preset in ('basic', 'multitask'):
        for tasks in counts[:2]:
            size = replace(base, tasks=tasks, batch=min(base.batch, 8))
            yield '4 counts', f'{preset}, {tasks} tasks', lambda p=preset, s=size: count_step(device, s, p)
    for tasks in counts:
        size = replace(base, tasks=tasks)
        yield '5 norms', f'{tasks} tasks', lambda s=size: compare_norms(device, s, turn / 4)
    for layers in (base.layers, 2 * base.layers):
        for preset in ('basic', 'multitask'):
            for autocast in (None, torch.bfloat16):
                for tasks in counts:
                    size = replace(base, tasks=tasks, layers=layers)
                    name = f'{preset}, {tasks} tasks, {layers} layers, {"float32" if autocast is None else "bfloat16"}'
                    yield (
                        '5 cost',
                        name,
                        lambda s=size, p=preset, a=autocast: compare_steps(device, s, p, a, turn),
                    )


def _for_a_cpu(options: Mapping[str, Any]) -> dict[str, Any]:
    # Its convolutions take a hundred times as long in float16.
    return {key: torch.bfloat16 if value is torch.float16 else value for key, value in options.items()}


def late_entries(device: torch.device, small: bool) -> Iterator[Entry]:
    """Yield part 6, for which time is kept back, and what compiling takes its time for."""
    base = TINY if small else replace(SCALEZERO, embed=64, layers=2, heads=4, batch=4)
    counts, turn = ((2, 3), 0.5) if small else ((26, 8, 2), 4.0)
    for tasks in counts:
        size = replace(base, tasks=tasks)
        yield '6 short steps', f'basic, {tasks} tasks', lambda s=size: compare_steps(device, s, 'basic', None, turn)
    busy = replace(TINY if small else SCALEZERO, tasks=counts[1])
    yield '6 busy', 'basic, four streams busy', lambda: compare_steps(device, busy, 'basic', None, turn, streams=4)
    backend = 'aot_eager' if small else 'inductor'
    yield '2 figures', f'basic, torch.compile ({backend})', lambda: check_figures(device, 'basic', {'backend': backend})


def about(device: torch.device, small: bool) -> dict[str, Any]:
    """Return where this was measured."""
    commit = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True, check=False)
    return {
        'device': torch.cuda.get_device_name(device) if device.type == 'cuda' else f'CPU ({platform.machine()})',
        'torch': torch.__version__,
        'python': platform.python_version(),
        'commit': commit.stdout.strip() or 'not known',
        'model': 'a plain model with the parameters of multi-task UniZero' + (', reduced' if small else ''),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cuda')
    parser.add_argument('--small', action='store_true', help='reduced sizes: to see that everything starts and ends')
    parser.add_argument('--seconds', type=float, default=420.0, help='nothing is begun after so many')
    parser.add_argument('--out', type=Path, default=Path('build/gpu'))
    args = parser.parse_args()
    device = torch.device(args.device)
    deadline = time.monotonic() + args.seconds
    torch.set_num_threads(1 if args.small else min(torch.get_num_threads(), 8))

    def left() -> float:
        return deadline - time.monotonic()

    done: list[dict[str, Any]] = []
    report = {**about(device, args.small), 'entries': done}
    args.out.mkdir(parents=True, exist_ok=True)
    patch = pytest.MonkeyPatch()
    if device.type == 'cpu':
        take_accelerators_path(patch)
    # A fifth of the time, at least, is for part 6.
    work = [(entry, 0.2 * args.seconds) for entry in entries(device, args.small, left)]
    work += [(entry, 0.0) for entry in late_entries(device, args.small)]
    for (part, name, function), kept_back in work:
        started = time.monotonic()
        if left() <= kept_back:
            done.append({'part': part, 'what': name, 'error': 'no time was left for it'})
            continue
        try:
            result = {'result': function()}
        except Exception as error:
            result = {'error': f'{type(error).__name__}: {error}', 'trace': traceback.format_exc()}
            if device.type == 'cuda':
                torch.cuda.empty_cache()
        done.append({'part': part, 'what': name, 'seconds': time.monotonic() - started, **result})
        print(f'{args.seconds - left():6.1f} s  {part}: {name}: {result.get("error") or result["result"]}', flush=True)
        (args.out / 'gpu_check.json').write_text(json.dumps(report, indent=1), encoding='utf-8')
        (args.out / 'gpu_check.md').write_text(as_markdown(report), encoding='utf-8')
    patch.undo()
    (args.out / 'gpu_check.json').write_text(json.dumps(report, indent=1), encoding='utf-8')
    (args.out / 'gpu_check.md').write_text(as_markdown(report), encoding='utf-8')
    print(as_markdown(report))


def as_markdown(report: dict[str, Any]) -> str:
    """Return one table with all results."""
    head = ', '.join(f'{key} {value}' for key, value in report.items() if key != 'entries')
    lines = [head, '', '| part | what | result |', '|---|---|---|']
    for entry in report['entries']:
        result = entry.get('error') or ', '.join(f'{key}: {_short(value)}' for key, value in entry['result'].items())
        cell = str(result).replace('|', '/').replace('\n', ' ')
        lines.append(f'| {entry["part"]} | {entry["what"]} | {cell} |')
    return '\n'.join(lines) + '\n'


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f'{value:.4g}'
    if isinstance(value, dict):
        return '{' + ', '.join(f'{key} {_short(entry)}' for key, entry in value.items()) + '}'
    if isinstance(value, list):
        return '[' + ', '.join(map(_short, value)) + ']'
    return str(value)


if __name__ == '__main__':
    main()
