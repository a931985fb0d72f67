"""Draw the pictures of `reading-the-curves.md` from a run of ours.

    python docs/make_pictures.py runs/minigrid [docs/pictures]

It reads the event files of the run and writes one PNG per picture; a picture of which the run has no curve is left out,
and said so.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')

import matplotlib.pyplot as plt
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

Curves = dict[str, list[tuple[int, float]]]

TASK = re.compile(r'_task(\d+)')


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Arguments:
        title: above it.
        pattern: which metrics it shows; the whole name has to match.
        log: whether the value axis is logarithmic.
        limits: of the value axis.
    """

    title: str
    pattern: str
    log: bool = False
    limits: tuple[float, float] | None = None


PICTURES: dict[str, tuple[Panel, ...]] = {
    'parameter_norms': (
        Panel('norm of the shared groups', r'norm/(encoder|transformer)/_total_norm'),
        Panel('norm of the value heads', r'norm/head_value_task\d+/_total_norm'),
    ),
    'gradient_norms': (
        Panel('gradient norm, shared groups', r'grad/(encoder|transformer)/_total_norm', log=True),
        Panel('gradient norm, policy heads', r'grad/head_policy_task\d+/_total_norm', log=True),
    ),
    'logits': (
        Panel('largest |policy logit|', r'logits/policy_task\d+/abs_max'),
        Panel('spread of the value logits', r'logits/value_task\d+/std'),
    ),
    'embeddings': (
        Panel('norm of the tokens (mean)', r'norm/x_token(_task\d+)?/mean'),
        Panel('norm of the embeddings (spread)', r'embeddings/obs(_task\d+)?/norm_std'),
    ),
    'conflict': (
        Panel('conflict/transformer', r'conflict/transformer/(rate|min_cosine|mean_cosine)', limits=(-1, 1)),
        Panel('mean cosine with the other tasks', r'conflict/transformer_task\d+/mean_cosine', limits=(-1, 1)),
    ),
    'share': (
        Panel('share of the shared gradient', r'conflict/transformer_task\d+/share', limits=(0, 1)),
        Panel('imbalance, effective tasks', r'conflict/transformer/(imbalance|effective_tasks)'),
    ),
    'agreement': (Panel('agreement between ranks', r'agreement/(encoder|transformer)/cosine', limits=(-1, 1)),),
    'by_loss': (Panel('share of each loss, task 0', r'conflict/transformer_task0/\w+/share', limits=(0, 1)),),
    'updates': (
        Panel('relative size of a step', r'update/(encoder|transformer)/relative', log=True),
        Panel('cosine of gradient and step', r'update/transformer_task\d+/cosine'),
    ),
    'clipping': (Panel('clip coefficient', r'clip/.*/(coefficient|fraction)', limits=(0, 1.05)),),
    'dormancy': (
        Panel('dormant units (0.1), encoder', r'plasticity/encoder(_task\d+)?/dormant_tau0\.1'),
        Panel('dormant units (0.1), transformer', r'plasticity/transformer(_task\d+)?/dormant_tau0\.1'),
        Panel('gradient-dormant units (0.1)', r'plasticity/(encoder|transformer)/gradient_dormant_tau0\.1'),
        Panel(
            'overlap of dormant sets',
            r'plasticity/(encoder|transformer)/dormant_overlap_(tasks|time)',
            limits=(0, 1.05),
        ),
    ),
    'rank': (
        Panel('effective rank of the tokens', r'plasticity/x_token(_task\d+)?/effective_rank'),
        Panel('stable rank of the tokens', r'plasticity/x_token(_task\d+)?/stable_rank'),
        Panel('effective rank of the embeddings', r'plasticity/embeddings/obs(_task\d+)?/effective_rank'),
    ),
    'weight_magnitude': (Panel('root mean square of the weights', r'plasticity/(encoder|transformer)/weight_rms'),),
    'own_cost': (
        Panel('milliseconds per record', r'monitor/cost/ms', log=True),
        Panel('milliseconds by metric', r'monitor/cost/\w+/ms', log=True),
    ),
}


def read_curves(folder: Path) -> Curves:
    """Return every scalar of a run's event files, by name: (iteration, value) in order, the last value of an iteration.

    Raises:
        FileNotFoundError: no event file.
    """
    files = sorted(folder.rglob('events.out.tfevents.*'))
    if not files:
        raise FileNotFoundError(f'{folder} holds no event file')
    points: dict[str, dict[int, float]] = defaultdict(dict)
    for file in files:
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                kind = value.WhichOneof('value')
                if kind == 'simple_value':
                    points[value.tag][event.step] = value.simple_value
                elif kind == 'tensor' and value.tensor.dtype == 1 and value.tensor.float_val:
                    points[value.tag][event.step] = value.tensor.float_val[0]
    return {name: sorted(of_name.items()) for name, of_name in points.items()}


def draw(panels: tuple[Panel, ...], curves: Curves, target: Path) -> list[str]:
    """Draw one picture; return the titles of panels without a curve, and write nothing if that is all of them."""
    chosen = {panel: sorted(name for name in curves if re.fullmatch(panel.pattern, name)) for panel in panels}
    shown = [panel for panel in panels if chosen[panel]]
    if shown:
        figure, grid = plt.subplots(1, len(shown), figsize=(4.2 * len(shown), 3.0), squeeze=False)
        for axes, panel in zip(grid[0], shown, strict=True):
            for name in chosen[panel]:
                iterations, values = zip(*curves[name], strict=True)
                task = TASK.search(name)
                # A task has its colour in every picture; figures over all tasks are drawn thicker.
                # Curves of one and the same task are told apart by colours of their own.
                one_task = len({found[1] for other in chosen[panel] if (found := TASK.search(other))}) == 1
                style: dict[str, Any] = {'lw': 1.0 if task else 1.8}
                if task and not (one_task and len(chosen[panel]) > 1):
                    style['color'] = f'C{int(task[1]) % 10}'
                if not task and any(TASK.search(other) for other in chosen[panel]):
                    style['color'] = 'black' if 'encoder' not in name else '0.5'
                axes.plot(iterations, values, label=_label(name, chosen[panel]), **style)
            axes.set(title=panel.title, xlabel='iteration', yscale='log' if panel.log else 'linear')
            if panel.limits:
                axes.set_ylim(*panel.limits)
            axes.grid(alpha=0.3)
            if len(chosen[panel]) <= 12:
                axes.legend(fontsize=6)
        figure.tight_layout()
        figure.savefig(target, dpi=110, metadata={'Software': None})
        plt.close(figure)
    return [panel.title for panel in panels if not chosen[panel]]


def _label(name: str, names: list[str]) -> str:
    """Return the parts of a name in which it differs from the others of its panel."""
    split = [other.split('/') for other in names]
    if len({len(parts) for parts in split}) > 1:
        return name
    differing = [index for index, column in enumerate(zip(*split, strict=True)) if len(set(column)) > 1]
    return '/'.join(name.split('/')[index] for index in differing) or name


def main(arguments: list[str]) -> int:
    """Draw everything."""
    if not 1 <= len(arguments) <= 2:
        print(__doc__)
        return 2
    run = Path(arguments[0])
    target = Path(arguments[1]) if len(arguments) == 2 else Path(__file__).parent / 'pictures'
    target.mkdir(parents=True, exist_ok=True)
    curves = read_curves(run)
    for name, panels in PICTURES.items():
        file = target / f'{name}.png'
        missing = draw(panels, curves, file)
        state = 'no curve in this run' if len(missing) == len(panels) else str(file)
        print(f'{name}: {state}' + (f' (without: {", ".join(missing)})' if 0 < len(missing) < len(panels) else ''))
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
