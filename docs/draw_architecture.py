"""Draw docs/pictures/architecture.svg: where the data goes.

python docs/draw_architecture.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use('svg')
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

STAGES = [
    ('policy._forward_learn', 'one learner step on every rank; publishes tensors and losses', '#dce8f7'),
    ('core/step', 'forward_end, local_backward_end, backward_end, step_end', '#dce8f7'),
    ('metrics', 'one class each; rows of raw moments; no wait for the device', '#dce8f7'),
    ('rows', 'one copy from device to host per step, read by a later step', '#dce8f7'),
    ('ranks', 'rows of all ranks meet on rank 0, matched by iteration', '#e3f2e1'),
    ('core/record', 'scalars, matrices, notes: derived from merged rows', '#e3f2e1'),
    ('diagnose', 'rules over the records: what is wrong, with which task, since when', '#e3f2e1'),
    ('destinations', 'TensorBoard, wandb, ctx.monitor_records; the history file of runs', '#fbeed8'),
    ('runs', 'reading a run back, judging it, the report page', '#fbeed8'),
]
"""Name, what it does, colour of where it runs."""

THREADS = [('#dce8f7', 'learner, every rank'), ('#e3f2e1', 'background, rank 0'), ('#fbeed8', 'destinations, files')]


def main() -> None:
    """Draw the picture."""
    plt.rcParams.update({'svg.fonttype': 'none', 'svg.hashsalt': 'ding_normmon', 'font.family': 'sans-serif'})
    figure, axes = plt.subplots(figsize=(8.4, 7.4))
    height, gap = 0.72, 0.34
    for index, (name, what, colour) in enumerate(STAGES):
        top = -index * (height + gap)
        axes.add_patch(
            FancyBboxPatch(
                (0, top - height), 7.7, height, boxstyle='round,pad=0.02', facecolor=colour, edgecolor='#555'
            )
        )
        axes.text(0.18, top - 0.27, name, fontsize=11, fontweight='bold', va='center')
        axes.text(0.18, top - 0.54, what, fontsize=9, va='center', color='#333')
        if index:
            arrow = FancyArrowPatch((3.85, top + gap), (3.85, top), arrowstyle='-|>', mutation_scale=11, color='#555')
            axes.add_patch(arrow)

    def middle(stage: int) -> float:
        return -stage * (height + gap) - height / 2

    back = FancyArrowPatch(
        (7.75, middle(6)),
        (7.75, middle(0)),
        arrowstyle='-|>',
        mutation_scale=12,
        color='#a33',
        connectionstyle='arc3,rad=0.28',
    )
    axes.add_patch(back)
    axes.text(
        8.85,
        middle(3),
        'ranks/decisions: rank 0 decides\n(schedule, stop, checkpoint),\napplied by every rank at\nthe same iteration',
        fontsize=9,
        color='#a33',
        va='center',
    )
    for index, (colour, where) in enumerate(THREADS):
        bottom = 0.32
        axes.add_patch(
            FancyBboxPatch(
                (index * 2.75, bottom), 0.22, 0.16, boxstyle='square,pad=0.01', facecolor=colour, edgecolor='#555'
            )
        )
        axes.text(index * 2.75 + 0.34, bottom + 0.08, where, fontsize=9, va='center')
    axes.set_xlim(-0.1, 11.4)
    axes.set_ylim(-len(STAGES) * (height + gap) + 0.2, 0.65)
    axes.set_aspect('equal')
    axes.axis('off')
    path = Path(__file__).parent / 'pictures' / 'architecture.svg'
    figure.savefig(path, bbox_inches='tight', facecolor='white', metadata={'Date': None})


if __name__ == '__main__':
    main()
