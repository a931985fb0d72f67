"""Compare ways to take the norms of every parameter and every gradient of a model on a CPU.

    python benchmarks/squares.py --threads 1
    python benchmarks/squares.py --threads 2 --models scalezero --repeats 15

Rows: one ``norm().item()`` per tensor (the usual loop), ``torch._foreach_norm``, ``SquareSums``, and the floor: one
pass over one flat tensor with as many bytes.

Each method is timed in bursts: "cold" is the first call, after other memory than the model's has been read, as in a
learner step where the backward pass or the optimizer ran last, and "warm" is the last call, when caches and branch
predictors have seen the same work several times. The methods take turns within each repeat, so a disturbance from
outside hits them alike. "CPU" is the calling thread's own time; on a machine that others use, its ratio is the one
to trust. Ratios and CPU times stand as "cold, warm".
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ding_normmon.metrics.kernels.squares import SquareSums

Shape = tuple[int, ...]
LOOP, FLOOR = 'loop: norm().item()', 'floor: torch.dot, flat'


def model_shapes(embed: int, layers: int, support: int, convolutions: int, tasks: int = 26) -> list[Shape]:
    """Shapes of a multi-task world model: transformer blocks, four heads per task, and an encoder shared by all."""
    shapes: list[Shape] = []
    for _ in range(layers):
        shapes += [(embed,)] * 4  # two layer norms
        shapes += [(3 * embed, embed), (3 * embed,), (embed, embed), (embed,)]
        shapes += [(4 * embed, embed), (4 * embed,), (embed, 4 * embed), (embed,)]
    for out in (support, support, 18, embed):  # value, reward, policy, next observation
        shapes += [(embed, embed), (embed,), (embed,), (embed,), (out, embed), (out,)] * tasks
    for _ in range(convolutions):
        shapes += [(32, 32, 3, 3), (32,), (32,)]
    return [*shapes, (18, embed), (20, embed)]  # action and position embeddings


MODELS: dict[str, Callable[[], list[Shape]]] = {
    'small': lambda: model_shapes(embed=64, layers=2, support=21, convolutions=15),
    'scalezero': lambda: model_shapes(embed=768, layers=4, support=21, convolutions=32),
}


def make_methods(shapes: list[Shape]) -> dict[str, Callable[[], object]]:
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    gradients = [torch.randn(shape) for shape in shapes]
    numel = sum(map(math.prod, shapes))
    # The floor reads memory of its own only as long as that is small; else the two halves share it.
    flat = torch.randn(2 * numel) if numel < 10_000_000 else torch.randn(numel)
    passes = 2 * numel // flat.numel()
    both = [list(map(torch.Tensor.detach, parameters)), gradients]
    of_parameters, of_gradients = SquareSums(parameters), SquareSums(parameters)
    sums, nonfinite = (torch.empty(len(shapes), dtype=torch.float64) for _ in range(2))

    def naive() -> list[float]:
        return [tensor.norm().item() for tensors in (parameters, gradients) for tensor in tensors]

    def foreach_norm() -> list[tuple[Tensor, ...]]:
        return [torch._foreach_norm(tensors) for tensors in both]

    def ours() -> None:
        of_parameters(parameters, sums, nonfinite)
        # Gradients are new tensors in every step: nothing about them may be remembered.
        of_gradients(gradients, sums, nonfinite)

    def floor() -> list[Tensor]:
        return [torch.dot(flat, flat) for _ in range(passes)]

    def floor_norm() -> list[Tensor]:
        return [torch.linalg.vector_norm(flat[: numel // 4096 * 4096].view(-1, 4096), dim=1) for _ in range(2)]

    return {
        LOOP: naive,
        'torch._foreach_norm': foreach_norm,
        'SquareSums': ours,
        FLOOR: floor,
        'floor: vector_norm, flat rows': floor_norm,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description='Norms of all parameters and gradients: methods compared.')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads(), help='torch threads')
    parser.add_argument('--repeats', type=int, default=0, help='0: 100 for the small model, 15 for the large one')
    parser.add_argument('--models', nargs='+', choices=list(MODELS), default=list(MODELS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for model in arguments.models:
        shapes = MODELS[model]()
        numel = sum(map(math.prod, shapes))
        methods = make_methods(shapes)
        cold: dict[str, list[float]] = {name: [] for name in methods}
        warm: dict[str, list[float]] = {name: [] for name in methods}
        cpu: dict[str, list[list[float]]] = {name: [[], []] for name in methods}
        elsewhere = torch.zeros(8_000_000)
        burst = 8 if numel < 10_000_000 else 2
        repeats = arguments.repeats or (100 if numel < 10_000_000 else 15)
        for repeat in range(-2, repeats):  # two rounds to warm up
            for name, method in methods.items():
                elsewhere.sum()
                for call in range(burst):
                    cpu_start, start = time.thread_time(), time.perf_counter()
                    method()
                    milliseconds, cpu_milliseconds = (
                        1e3 * (time.perf_counter() - start),
                        1e3 * (time.thread_time() - cpu_start),
                    )
                    if repeat >= 0 and call in (0, burst - 1):
                        (warm if call else cold)[name].append(milliseconds)
                        cpu[name][call > 0].append(cpu_milliseconds)
        table = Table(
            title=f'{model}: {len(shapes)} tensors, {numel / 1e6:.2f} M float32 elements, parameters and gradients, '
            f'{arguments.threads} torch thread(s), {repeats} interleaved repeats'
        )
        columns = ['method', 'cold ms', 'quartiles', 'warm ms', 'quartiles', 'CPU ms', 'loop / this', 'the same, CPU']
        columns += ['this / floor']
        for column in columns:
            table.add_column(column, justify='left' if column == 'method' else 'right')
        medians = {name: np.median([cold[name], warm[name]], axis=1) for name in methods}
        cpu_medians = {name: np.median(cpu[name], axis=1) for name in methods}
        for name in methods:
            cells = [name]
            for times in (cold, warm):
                low, median, high = np.percentile(times[name], [25, 50, 75])
                cells += [f'{median:.3f}', f'{low:.3f} to {high:.3f}']
            for pair, digits in (
                (cpu_medians[name], 3),
                (medians[LOOP] / medians[name], 2),
                (cpu_medians[LOOP] / cpu_medians[name], 2),
                (medians[name] / medians[FLOOR], 2),
            ):
                cells.append(f'{pair[0]:.{digits}f}, {pair[1]:.{digits}f}')
            table.add_row(*cells)
        Console(width=160).print(table)


if __name__ == '__main__':
    main()
