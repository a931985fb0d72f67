"""Which charts a page has: what a run holds, in the order in which people ask for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ding_normmon.core.metric_names import task_in
from ding_normmon.runs import Run

__all__ = ['Chart', 'Line', 'Section', 'lay_out']



@dataclass(frozen=True)
class Line:
    """One curve of a chart.

    Arguments:
        metric: its full name.
        task: global id of the task it is about; None where it is about all.
        label: what the legend calls it.
        low: metric of the lower edge of a band around it.
        high: metric of the upper edge.
        spread: metric of the standard deviation, for a second, darker band.
    """

    metric: str
    task: int | None
    label: str
    low: str | None = None
    high: str | None = None
    spread: str | None = None


@dataclass(frozen=True)
class Chart:
    """One chart.

    Arguments:
        key: unique; what links and findings refer to.
        title: what is drawn, in English; translated piece by piece by the page.
        lines: its curves.
        scale: charts of the same scale share one vertical axis range; empty for one of its own.
        is_small: whether it is one of several small ones side by side.
    """

    key: str
    title: str
    lines: tuple[Line, ...]
    scale: str = ''
    is_small: bool = False


@dataclass
class Section:
    """Charts that answer one question."""

    key: str
    charts: list[Chart] = field(default_factory=list)


_HEADS = ('head_value', 'head_policy', 'head_reward', 'head_observation')
_SHARED = (
    'encoder',
    'transformer',
    'model',
    'task_embedding',
    'action_embedding',
    'position_embedding',
    'embeddings',
    'other',
)


def lay_out(runs: Sequence[Run]) -> list[Section]:
    """Return the sections of a page, without those that would be empty.

    Arguments:
        runs: the runs; charts are those of what any of them holds.
    """
    names = list(dict.fromkeys(name for run in runs for name in run.series))
    tasks = sorted({task_id for run in runs for task_id in run.tasks})
    known = set(names)
    used: set[str] = set()

    def lines(metrics: Sequence[tuple[str, int | None, str]]) -> tuple[Line, ...]:
        found = tuple(Line(name, task, label) for name, task, label in metrics if name in known)
        used.update(line.metric for line in found)
        return found

    def of_tasks(family: str) -> tuple[Line, ...]:
        before, _, after = family.partition('{}')
        return lines([(f'{before}_task{task}{after}', task, f'task {task}') for task in tasks])

    def band(signal: str, prefix: str = '') -> tuple[Line, ...]:
        mean, low, high, spread = (f'{signal}/{prefix}{word}' for word in ('mean', 'min', 'max', 'std'))
        if mean not in known:
            return ()
        used.update((mean, low, high, spread))
        return (Line(mean, None, 'mean', *(name if name in known else None for name in (low, high, spread))),)

    sections = {key: Section(key) for key in _SECTIONS}

    def add(section: str, key: str, title: str, found: tuple[Line, ...], scale: str = '', small: bool = False) -> None:
        if found:
            sections[section].charts.append(Chart(key, title, found, scale, small))

    called = {task_id: name for run in runs for task_id, name in run.tasks.items()}
    for key, family, title in (('returns', 'collect', 'train return'), ('evaluations', 'eval', 'evaluation return')):
        add('returns', key, title, lines([(f'{family}/{called[task]}/return', task, called[task]) for task in tasks]))
    for loss in ('value', 'policy', 'reward', 'obs'):
        add('returns', f'loss-{loss}', f'{loss} loss', of_tasks(f'noreduce_{loss}_loss{{}}'))

    for kind, title in (('norm', 'parameter norm'), ('grad', 'gradient norm')):
        shared = lines([(f'{kind}/{group}/_total_norm', None, group) for group in _SHARED])
        add('shared', f'{kind}-shared', title, shared)
    for name in sorted(known):
        if name.startswith(('grad_local/', 'grad_synced/', 'clip/')) and name not in used:
            add('shared', name, name, lines([(name, None, name.rsplit('/', 1)[-1])]))

    for kind, title in (('grad', 'gradient norm'), ('norm', 'parameter norm')):
        for head in _HEADS:
            add('heads', f'{kind}-{head}', f'{head}: {title}', of_tasks(f'{kind}/{head}{{}}/_total_norm'))
    for task in tasks:
        of_task = [(f'grad/{head}_task{task}/_total_norm', task, head) for head in _HEADS]
        add('each', f'task-{task}', f'{{task {task}}}', lines(of_task), 'heads', small=True)

    for group in ('encoder', 'transformer', 'embeddings'):
        add('balance', f'share-{group}', f'{group}: share of the gradient', of_tasks(f'conflict/{group}{{}}/share'))
    figures = ('imbalance', 'effective_tasks', 'rate', 'mean_cosine', 'min_cosine')
    for figure in figures:
        groups = [(f'conflict/{group}/{figure}', None, group) for group in ('encoder', 'transformer', 'embeddings')]
        add('balance', f'conflict-{figure}', figure.replace('_', ' '), lines(groups))

    for head in ('value', 'policy', 'reward'):
        add('signals', f'logits-{head}', f'{head} logits', band(f'logits/{head}'))
        add('signals', f'abs-{head}', f'{head} logits: largest', of_tasks(f'logits/{head}{{}}/abs_max'))
    add('signals', 'x-token', 'norm of x_token', band('norm/x_token'))
    add('signals', 'x-token-tasks', 'norm of x_token: mean', of_tasks('norm/x_token{}/mean'))
    add('signals', 'embeddings', 'norm of observation embeddings', band('embeddings/obs', 'norm_'))
    add('signals', 'embeddings-tasks', 'norm of observation embeddings: mean', of_tasks('embeddings/obs{}/norm_mean'))
    add('signals', 'rewards', 'largest reward of a batch', of_tasks('data/reward{}/abs_max'))
    add('signals', 'change', 'change of observations', of_tasks('data/observation_change{}/mean'))

    shared = lines([(f'update/{group}/relative', None, group) for group in _SHARED])
    add('updates', 'update-shared', 'step relative to weights', shared)
    for head in _HEADS:
        add('updates', f'update-{head}', f'{head}: step relative to weights', of_tasks(f'update/{head}{{}}/relative'))
    for group in ('encoder', 'transformer'):
        add(
            'updates',
            f'served-{group}',
            f'{group}: cosine of step and gradient',
            of_tasks(f'update/{group}{{}}/cosine'),
        )

    for name in sorted(known):
        if name.startswith('plasticity/') and task_in(name) is None and not name.endswith('weight_rms'):
            label = name.removeprefix('plasticity/')
            add('plasticity', label, label, lines([(name, None, 'all')]))
    for signal in ('x_token', 'embeddings/obs'):
        family = f'plasticity/{signal}{{}}/effective_rank'
        add('plasticity', f'rank-{signal}', f'{signal}: effective rank by task', of_tasks(family))

    costs = [name for name in names if re.fullmatch(r'monitor/cost/.+/ms|monitor/cost/ms\w*', name)]
    add('cost', 'cost', 'milliseconds per record', lines([(name, None, name[13:]) for name in costs]))
    for name in sorted(known):
        if name.startswith(('monitor/lost/', 'monitor/missing', 'monitor/nonfinite/', 'monitor/no_gradient/')):
            add('cost', name, name, lines([(name, None, name.removeprefix('monitor/'))]))

    # What is none of ours, and figures that no chart above shows, at the end.
    mine = ('norm/', 'grad/', 'logits/', 'embeddings/', 'conflict/', 'update/', 'plasticity/', 'monitor/', 'data/')
    for name in names:
        if name not in used and not name.startswith(mine) and task_in(name) is None:
            add('other', name, name, lines([(name, None, name)]), small=True)
    return [section for section in sections.values() if section.charts]


_SECTIONS = ('returns', 'shared', 'heads', 'each', 'balance', 'signals', 'updates', 'plasticity', 'cost', 'other')
