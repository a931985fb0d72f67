"""Runs as they are read from disk, made up, with the names of the metric reference."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from ding_normmon.core.finding import Finding
from ding_normmon.runs import MatrixSeries, Run, Series
from ding_normmon.runs.rules import rules_of_today

HEADS = ('head_value', 'head_policy', 'head_reward', 'head_observation')

HOSTILE = (
    '<script>document.title="broken"</script>',
    '</script><img src=x onerror="document.title=\'broken\'">',
    '"quotes\' & <b>bold</b>',
    'مهمة \u202eright to left',
)


def sample_run(tasks: int = 4, records: int = 200, names: tuple[str, ...] = (), path: str = 'sample') -> Run:
    """Return a run with every kind of chart, a matrix, NaN and two findings."""
    chance = np.random.default_rng(tasks)
    iterations = np.arange(records, dtype=np.int64) * 10
    times = iterations.astype(np.float64)
    called = {task: names[task] if task < len(names) else f'Game{task}' for task in range(tasks)}
    series: dict[str, Series] = {}

    def add(name: str, level: float = 1.0) -> None:
        series[name] = Series(iterations, level * np.exp(0.2 * chance.normal(size=records).cumsum() / 10), times)

    for group in ('encoder', 'transformer', 'model', 'task_embedding'):
        for kind in ('norm', 'grad'):
            add(f'{kind}/{group}/_total_norm', 5.0)
        add(f'update/{group}/relative', 1e-3)
    add('clip/model/coefficient')
    for signal, prefix in (
        ('logits/value', ''),
        ('logits/policy', ''),
        ('logits/reward', ''),
        ('embeddings/obs', 'norm_'),
        ('norm/x_token', ''),
    ):
        for suffix in ('', *(f'_task{task}' for task in range(tasks))):
            for word in ('mean', 'std', 'min', 'max'):
                add(f'{signal}{suffix}/{prefix}{word}', {'min': 0.2, 'std': 0.3}.get(word, 1.0))
            if signal.startswith('logits'):
                add(f'{signal}{suffix}/abs_max', 4.0)
    for task in range(tasks):
        for head in HEADS:
            for kind in ('norm', 'grad'):
                add(f'{kind}/{head}_task{task}/_total_norm')
            add(f'update/{head}_task{task}/relative', 1e-3)
        for loss in ('value', 'policy', 'reward', 'obs'):
            add(f'noreduce_{loss}_loss_task{task}')
        for group in ('encoder', 'transformer'):
            add(f'conflict/{group}_task{task}/share', 1 / tasks)
            add(f'update/{group}_task{task}/cosine', 0.3)
        add(f'plasticity/x_token_task{task}/effective_rank', 20.0)
        add(f'collect/{called[task]}/return', 0.5)
    for group in ('encoder', 'transformer'):
        for figure in ('imbalance', 'effective_tasks', 'rate', 'mean_cosine', 'min_cosine'):
            add(f'conflict/{group}/{figure}')
        add(f'plasticity/{group}/dormant_tau0.025', 0.1)
    add('plasticity/x_token/effective_rank', 30.0)
    add('monitor/cost/ms', 2.0)
    broken = series['grad/encoder/_total_norm'].values
    broken[7], broken[8] = np.nan, np.inf
    cosine = np.tanh(chance.normal(size=(records // 5, tasks, tasks)))
    stack = MatrixSeries(iterations[::5], cosine, tuple(range(tasks)), tuple(range(tasks)), called)
    findings = [
        Finding('gradient_jump', 'warning', 500, 520, f'Task 1 ({called[1]}): its gradient has jumped.', 'Look.', (1,),
                (called[1],), None, {'grad/head_value_task1/_total_norm': 9.0}),
        Finding('head_gradient_gap', 'info', 700, 720, 'Heads are apart.', 'Weigh.', (0,), (called[0],), 'head_value'),
    ]  # fmt: skip
    matrices, rules = {'conflict/encoder/cosine': stack}, rules_of_today()
    return Run(Path(path), series, matrices, called, {'seed': 0}, [], findings, rules=rules)


def broken_run(tasks: int = 4, records: int = 200, path: str = 'broken', seed: int = 0) -> Run:
    """Return a run in which the head gradients of task 1 are 60 times as large from 60% on, as was found."""
    run = sample_run(tasks, records, path=path)
    chance = np.random.default_rng(seed)
    series = {}
    for name, curve in run.series.items():
        level = float(curve.values[0])
        values = level * np.exp(0.04 * chance.normal(size=records))
        if name.startswith('grad/head') and '_task1/' in name:
            values[records * 6 // 10 :] *= 60
        if name.startswith('grad/'):
            values[0] = 1e4 * level
        series[name] = Series(curve.iterations, values, 1.7e9 + curve.times)
    steps = 32.0 * np.arange(1, records + 1)
    series['collect/environment_steps'] = Series(curve.iterations, steps, 1.7e9 + curve.times)
    configuration = {'seed': seed, 'lr': 1e-3}
    near = {name: dataclasses.replace(stack, values=stack.values * 0.2) for name, stack in run.matrices.items()}
    found = Finding(
        'gradient_jump', 'warning', records * 6 + 10, records * 6 + 20,
        'Task 1 (Game1): the gradient norm of its head_policy is 60 times its usual level; the others are not.',
        'Look at what has changed for this task: its loss weight, reward scale, targets and data.',
        (1,), ('Game1',), None, {'grad/head_policy_task1/_total_norm': 60.0},
    )  # fmt: skip
    return Run(Path(path), series, near, run.tasks, configuration, [], [found], rules=rules_of_today())
