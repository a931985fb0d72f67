"""Draw the README's picture of curves from the event file of a run.

    python docs/draw_curves.py runs/minigrid docs/pictures/curves.png
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PANELS = {
    'Gradient norms of shared modules, before clipping': r'grad/(encoder|transformer)/_total_norm',
    'Gradient norm of the value head, per task': r'grad/head_value_task\d+/_total_norm',
    'Weight norm of the policy head, per task': r'norm/head_policy_task\d+/_total_norm',
    'Largest absolute policy logit, per task': r'logits/policy_task\d+/abs_max',
    'L2 norm of observation embeddings, per task (mean)': r'embeddings/obs_task\d+/norm_mean',
    'Return of collected episodes, per task': r'collect/.*/return',
}


def draw(run: Path, picture: Path) -> None:
    """Draw one panel per entry of :data:`PANELS`."""
    events = EventAccumulator(str(run), size_guidance={'scalars': 0})
    events.Reload()
    written = events.Tags()['scalars']
    names = sorted(written)
    # Evaluations are written in the order of task ids.
    tasks = [name.split('/')[1] for name in written if re.fullmatch(r'eval/.*/return', name)]
    figure, axes = plt.subplots(2, 3, figsize=(16, 8), constrained_layout=True)
    for axis, (title, pattern) in zip(axes.flat, PANELS.items(), strict=True):
        for name in names:
            if re.fullmatch(pattern, name):
                points = events.Scalars(name)
                task = re.search(r'_task(\d+)', name)
                if task:
                    colour: str | None = f'C{task[1]}'
                else:
                    colour = f'C{tasks.index(name.split("/")[1])}' if name.startswith('collect/') else None
                label = f'task {task[1]}' if task else name.split('/')[1]
                steps, values = [p.step for p in points], [p.value for p in points]
                axis.plot(steps, values, color=colour, label=label, linewidth=1.2)
        axis.set_title(title, fontsize=11)
        axis.set_xlabel('learner iteration')
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
        if title.startswith('Gradient'):
            axis.set_yscale('log')
    figure.savefig(picture, dpi=80)


if __name__ == '__main__':
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
