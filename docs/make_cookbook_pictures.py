"""Draw the pictures of the cookbook from planted runs, and print the table of remedies.

    python docs/make_cookbook_pictures.py [NAME...]

Recorded runs of multi-task UniZero are in `cookbook_data`, 800 iterations each. The others are trained here in a minute
(`cookbook_runs.py`). What is found is judged anew by today's rules.
"""

from __future__ import annotations

import logging
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use('agg')
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS)]

from cookbook_runs import TASKS, Setting, moco, pcgrad, train  # noqa: E402

from benchmarks.faults.storage import load_run  # noqa: E402
from ding_normmon import Record  # noqa: E402
from ding_normmon.core.finding import Finding  # noqa: E402
from ding_normmon.runs.judge import diagnose  # noqa: E402

PICTURES = DOCS / 'pictures' / 'cookbook'
DATA = DOCS / 'cookbook_data'
Curve = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Planted:
    """A run in which something was planted."""

    curves: Mapping[str, Curve]
    tasks: Mapping[int, str]
    findings: Sequence[Finding]
    planted: int | None = None


@dataclass(frozen=True)
class Panel:
    """One pair of axes: title, names, whether on a logarithmic scale, and over how many points a mean."""

    title: str
    pattern: str
    log: bool = False
    mean_of: int = 1


def recorded(name: str) -> Planted:
    """Return one of the recorded runs."""
    scenario, run = load_run(DATA / f'{name}.npz')
    curves = {key: (series.iterations, series.values) for key, series in run.series.items()}
    tasks = {task: label.removeprefix('MiniGrid-').removesuffix('-v0') for task, label in run.tasks.items()}
    return Planted(curves, tasks, diagnose(run), scenario.planted)


def trained(setting: Setting, planted: int | None = None) -> Planted:
    """Train one of the small runs."""
    records = train(setting)
    findings = [finding for record in records for finding in record.findings if finding.cleared is None]
    return Planted(curves_of(records), dict(enumerate(TASKS)), findings, planted)


def curves_of(records: Sequence[Record]) -> dict[str, Curve]:
    """Return every scalar over the iterations at which it was measured."""
    points: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        for name, value in record.scalars.items():
            points.setdefault(name, []).append((record.iteration, value))
    return {name: (np.array([i for i, _ in each]), np.array([v for _, v in each])) for name, each in points.items()}


def draw(name: str, run: Planted, panels: Sequence[Panel], rule: str, last: int | None = None) -> None:
    """Draw one picture: the panels, what was planted, and the first finding of the rule as a sentence below.

    Arguments:
        name: of the file.
        run: the run.
        panels: from left to right.
        rule: whose finding is shown; where it is silent, the first one after the fault is.
        last: only so many iterations of the end.
    """
    since = [found for found in run.findings if found.found >= (run.planted or 0)]
    told = [found for found in since if run.planted is None or found.severity != 'info']
    finding = next((found for found in told if found.rule == rule), told[0])
    print(f'  {finding.rule}, {finding.found}: {finding.sentence}')
    figure, grid = plt.subplots(1, len(panels), figsize=(4.3 * len(panels), 3.3), squeeze=False)
    for axes, panel in zip(grid[0], panels, strict=True):
        names = sorted(key for key in run.curves if re.fullmatch(panel.pattern, key))
        assert names, f'{name}: no curve for {panel.pattern}'
        for key in names:
            draw_curve(axes, run, key, finding, panel.mean_of, alone=len(names) == 1)
        if run.planted is not None:
            axes.axvline(run.planted, color='0.4', ls=':', lw=1.2, label='planted')
        axes.axvline(finding.found, color='crimson', lw=1.2, label='found')
        axes.set_title(panel.title, fontsize=10)
        axes.set_xlabel('learner iteration', fontsize=8)
        axes.set_yscale('log' if panel.log else 'linear')
        if last is not None:
            end = max(int(iterations[-1]) for iterations, _ in run.curves.values())
            axes.set_xlim(end - last, end + last / 50)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.25)
        for side in ('top', 'right'):
            axes.spines[side].set_visible(False)
    grid[0][0].legend(fontsize=6.5, framealpha=0.8)
    sentence = finding.sentence.removesuffix(' It may follow from what was just found.')
    text = textwrap.fill(f'{finding.severity}, iteration {finding.found}: {sentence}', 50 * len(panels))
    figure.tight_layout(rect=(0, 0.06 + 0.05 * text.count('\n'), 1, 1))
    figure.text(0.012, 0.02, text, fontsize=9.5, color='crimson', family='monospace')
    save(figure, name)


def draw_curve(axes: plt.Axes, run: Planted, key: str, finding: Finding, mean_of: int, alone: bool) -> None:
    """Draw one curve: the task of the finding thick and red, the others thin."""
    iterations, values = run.curves[key]
    iterations, values = iterations[mean_of - 1 :], smooth(values, mean_of)
    found = re.search(r'_task(\d+)', key)
    task = int(found[1]) if found else None
    at_fault = alone or (task is not None and task in finding.tasks)
    if task is None:
        label = None if alone else key.split('/')[-1] if key.startswith('conflict') else key.split('/')[1]
        colour = 'crimson' if alone else None
    else:
        label = f'{task} {run.tasks.get(task, "")}'
        colour = 'crimson' if at_fault else ('0.35', 'tab:blue', 'tab:green', 'tab:olive', 'tab:purple')[task % 5]
    axes.plot(iterations, values, lw=1.7 if at_fault else 0.9, color=colour, label=label, marker='.', ms=2)


def save(figure: plt.Figure, name: str) -> None:
    """Write a picture, the same bytes for the same run."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURES / f'{name}.png', dpi=100, metadata={'Software': None})
    plt.close(figure)


def one_task_does_not_learn() -> None:
    panels = (
        Panel('gradient norm of the value heads', r'grad/head_value_task\d+/_total_norm'),
        Panel("share of the encoder's gradient", r'conflict/encoder_task\d+/share'),
        Panel('value loss', r'noreduce_value_loss_task\d+', log=True),
    )
    draw('one_task_does_not_learn', recorded('zeroed_gradients-0'), panels, 'no_gradient')


def one_head_grows() -> None:
    panels = (
        Panel('norm of the value heads', r'norm/head_value_task\d+/_total_norm'),
        Panel('relative size of a step, value heads', r'update/head_value_task\d+/relative', log=True),
        Panel('gradient norm of the value heads', r'grad/head_value_task\d+/_total_norm', log=True),
    )
    draw('one_head_grows', recorded('head_learning_rate-2'), panels, 'update_jump')


def shared_norms_drift() -> None:
    panels = (
        Panel('norm of the encoder', r'norm/encoder/_total_norm'),
        Panel('relative size of a step, encoder', r'update/encoder/relative', log=True),
        Panel('value loss', r'noreduce_value_loss_task\d+', log=True),
    )
    setting = Setting(weight_decay=-0.1)
    draw('shared_norms_drift', trained(setting, setting.change_at), panels, 'weight_jump')


def representation_collapses() -> None:
    panels = (
        Panel('norm of the shared modules', r'norm/(encoder|transformer)/_total_norm', log=True),
        Panel('dormant units of the encoder', r'plasticity/encoder/dormant_tau0\.1'),
        Panel('effective rank of the tokens', r'plasticity/x_token_task\d+/effective_rank'),
    )
    draw('representation_collapses', recorded('dead_encoder-0'), panels, 'update_jump')


def loss_explodes() -> None:
    panels = (
        Panel('reward loss', r'noreduce_reward_loss_task\d+', log=True),
        Panel('gradient norm of the reward heads', r'grad/head_reward_task\d+/_total_norm', log=True),
        Panel("entries that are not finite, encoder's gradient", r'monitor/nonfinite/grad/encoder'),
    )
    draw('loss_explodes', recorded('nan_rewards-1'), panels, 'non_finite')


def always_clipped() -> None:
    panels = (
        Panel('clip coefficient', r'clip/model/coefficient', log=True),
        Panel('gradient norm before clipping', r'grad/(encoder|model)/_total_norm', log=True),
        Panel('value loss', r'noreduce_value_loss_task\d+', log=True),
    )
    draw('always_clipped', trained(Setting(clip=0.05)), panels, 'always_clipped')


def forgotten() -> None:
    panels = (
        Panel('value loss', r'noreduce_value_loss_task\d+', log=True),
        Panel("share of the encoder's gradient", r'conflict/encoder_task\d+/share'),
        Panel('cosine of the step and the gradient', r'update/encoder_task\d+/cosine'),
    )
    setting = Setting(conflicting=True, weights=(1.0, 0.05, 0.3), new_weights=(0.0, 1.0, 0.3))
    draw('forgotten', trained(setting, setting.change_at), panels, 'no_gradient')


def died() -> None:
    panels = (
        Panel('gradient norm before clipping', r'grad/(encoder|model)/_total_norm', log=True),
        Panel('value loss', r'noreduce_value_loss_task\d+', log=True),
    )
    setting = Setting(growth=1.03, clip=None)
    draw('died', trained(setting, setting.change_at), panels, 'learning_rate')


REMEDIES: dict[str, Setting] = {
    'nothing': Setting(conflicting=True),
    'task weights 1, 1, 3': Setting(conflicting=True, weights=(1.0, 1.0, 3.0)),
    'PCGrad': Setting(conflicting=True, correct=pcgrad),
    'MoCo': Setting(conflicting=True, correct=moco()),
    'a wider encoder': Setting(),
}


def tasks_fight() -> None:
    """Draw the conflict and what the remedies make of it; print the table of the page."""
    runs = {name: trained(setting) for name, setting in REMEDIES.items()}
    panels = (
        Panel('cosines between tasks, encoder', r'conflict/encoder/(mean_cosine|min_cosine)', mean_of=15),
        Panel('share of pairs in conflict', r'conflict/encoder/rate', mean_of=15),
        Panel('value loss', r'noreduce_value_loss_task\d+', log=True, mean_of=15),
    )
    draw('tasks_fight', runs['nothing'], panels, 'conflicting_pair')
    figure, grid = plt.subplots(1, len(TASKS), figsize=(13, 3.2), sharey=True)
    for task, axes in enumerate(grid):
        for name, run in runs.items():
            iterations, values = run.curves[f'noreduce_value_loss_task{task}']
            axes.plot(iterations[9:], smooth(values, 10), label=name, lw=1.1)
        axes.set_title(f'value loss, task {task} ({TASKS[task]})', fontsize=10)
        axes.set_yscale('log')
        axes.grid(alpha=0.25)
    grid[0].legend(fontsize=7)
    figure.tight_layout()
    save(figure, 'tasks_fight_afterwards')
    print('| what was done | task 0 | task 1 | task 2 | mean cosine | pairs in conflict |\n|---|---|---|---|---|---|')
    for name, run in runs.items():
        cells = [late(run, f'noreduce_value_loss_task{task}') for task in range(len(TASKS))]
        cells += [late(run, f'conflict/encoder/{what}') for what in ('mean_cosine', 'rate')]
        print(f'| {name} | ' + ' | '.join(f'{cell:.2f}' for cell in cells) + ' |')


def smooth(values: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    """Return the running mean, so that noisy curves can be told apart."""
    return np.convolve(values, np.ones(width) / width, mode='valid')


def late(run: Planted, name: str) -> float:
    """Return the median of the last third of a curve."""
    values = run.curves[name][1]
    return float(np.nanmedian(values[-len(values) // 3 :]))


ALL: tuple[Callable[[], None], ...] = (
    one_task_does_not_learn,
    one_head_grows,
    shared_norms_drift,
    representation_collapses,
    loss_explodes,
    always_clipped,
    tasks_fight,
    forgotten,
    died,
)


if __name__ == '__main__':
    logging.getLogger('ding_normmon').setLevel(logging.CRITICAL)
    for each in ALL:
        if each.__name__ in (sys.argv[1:] or [one.__name__ for one in ALL]):
            print(each.__name__, flush=True)
            each()
