"""Recorded healthy runs whose curves are altered as a fault alters them: any frequency, any number of tasks."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.faults.storage import load_run
from ding_normmon.core.finding import Finding
from ding_normmon.core.metric_names import ANY_TASK, of_all_tasks, task_in, without_task
from ding_normmon.core.record import Record
from ding_normmon.diagnose import Diagnosis
from ding_normmon.metrics import DECLARED

RECORDED = Path(__file__).parents[1] / 'data' / 'healthy_run.npz'
BEGIN, AFTER = 40, 30
"""Records before and after the fault."""

Change = Callable[[Record, int, int | None], None]
"""Alters a record, so many iterations after the fault began, for one task or (None) for everything."""

_SIGNALS = ('embeddings/', 'logits/', 'grad/', 'noreduce_', 'norm/', 'data/observation')


def healthy(tasks: int, every: int, records: int = BEGIN + AFTER, task: int = 0) -> list[Record]:
    """Return the recorded run with so many tasks, as if it had been measured so often.

    The run is prolonged by going back and forth through its second half. Further tasks are copies with levels of their
    own and shifted in time; a single task has the names of a single-task policy.

    Arguments:
        tasks: number of tasks.
        every: iterations between records.
        records: number of records.
        task: which one is kept if there is one.
    """
    _, run = load_run(RECORDED)
    source, chance = list(run.records()), np.random.default_rng(0)
    order, step = list(range(len(source))), -1
    while len(order) < records:
        if not len(source) // 2 <= order[-1] + step < len(source):
            step = -step
        order.append(order[-1] + step)
    ids = sorted({task_id for each in source for metric in each.scalars if (task_id := task_in(metric)) is not None})
    shifts = [0 if new < len(ids) else int(chance.integers(1, 4)) for new in range(tasks)]
    factors: dict[tuple[int, str], float] = {}
    made = []
    for number, place in enumerate(order[:records]):
        scalars = {metric: value for metric, value in source[place].scalars.items() if task_in(metric) is None}
        if tasks == 1:
            scalars = {metric: value for metric, value in scalars.items() if 'conflict/' not in metric}
            scalars |= {without_task(m): v for m, v in source[place].scalars.items() if task_in(m) == task}
        for new in range(tasks if tasks > 1 else 0):
            old = ids[new % len(ids)]
            for metric, value in source[order[max(0, number - shifts[new])]].scalars.items():
                if task_in(metric) == old:
                    signal = metric.rpartition('/')[0] or metric
                    factor = factors.setdefault((new, signal), math.exp(0.25 * chance.normal()))
                    altered = new >= len(ids) and metric.startswith(_SIGNALS)
                    scalars[of_all_tasks(metric).replace(ANY_TASK, f'_task{new}')] = value * (
                        factor if altered else 1.0
                    )
        made.append(Record(number * every, scalars))
    return made


def times(pattern: str, factor: float | Callable[[int], float]) -> Change:
    """Multiply the figures whose names begin so; by a factor, or by what a function of the iterations says."""

    def change(record: Record, since: int, task: int | None) -> None:
        for name in record.scalars:
            if re.match(pattern, name) and task in (None, task_in(name)):
                record.scalars[name] *= factor if isinstance(factor, float) else factor(since)

    return change


def shifted(stem: str, amount: float) -> Change:
    """Add to all statistics of a signal but its spread."""

    def change(record: Record, _: int, task: int | None) -> None:
        for name in record.scalars:
            if name.startswith(stem) and not name.endswith('/std') and task in (None, task_in(name)):
                record.scalars[name] += amount

    return change


def negated(*stems: str) -> Change:
    """Change the sign of signals: their smallest values become the largest."""

    def change(record: Record, _: int, task: int | None) -> None:
        scalars = record.scalars
        for name in [name for name in scalars if name.startswith(stems) and task in (None, task_in(name))]:
            if name.endswith('/mean'):
                scalars[name] *= -1
            elif name.endswith('/max') and not name.endswith('abs_max'):
                least = f'{name.removesuffix("/max")}/min'
                scalars[name], scalars[least] = -scalars[least], -scalars[name]

    return change


def both(*changes: Change) -> Change:
    """Make several changes."""

    def change(record: Record, since: int, task: int | None) -> None:
        for each in changes:
            each(record, since, task)

    return change


def leaves(record: Record, _: int, task: int | None) -> None:
    """A solved task is no longer trained."""
    for name in [name for name in record.scalars if task_in(name) == task]:
        if name.startswith('update/'):
            record.scalars[name] = 0.0
        elif not name.startswith(('norm/head', 'learning_rate')):
            del record.scalars[name]
            if name.startswith('grad/'):
                record.scalars[f'monitor/no_gradient/{name.split("/")[1]}'] = 1.0


LOSSES = r'noreduce_\w+_loss|loss/'
STEPS = r'update/.*relative'

EVERYBODYS: dict[str, Change] = {
    'losses are summed': both(times(LOSSES, 8.0), times('grad/', 8.0), times('clip/', 1 / 8)),
    'logits x10': both(times('logits/', 10.0), times(r'noreduce_(policy|value)_loss', 2.5)),
    'gradients x20': both(times('grad/', 20.0), times('clip/', 1 / 20)),
    'weights x3': times('norm/(encoder|transformer|model|head)', 3.0),
    'tokens x5': times('norm/x_token', 5.0),
    'embeddings x4': times('embeddings/obs', 4.0),
    'values +5': shifted('data/value_target', 5.0),
    'observations x255': both(times('data/observation', 255.0), times('embeddings/', 1.5)),
    'targets lose their entropy': times('noreduce_target_policy_entropy', 0.0),
    'learning rate x10': both(times('learning_rate', 10.0), times(STEPS, 10.0)),
    'learning rate 0': both(times('learning_rate', 0.0), times(STEPS, 0.0)),
    'steps x10': times(STEPS, 10.0),
    'encoder is lost to the optimizer': times('update/encoder/relative', 0.0),
    'the clip limit swallows everything': times('clip/', 2.5e-5),
    'rewards negated': negated('data/reward', 'data/value_target'),
}
"""What goes wrong for all tasks at once."""

ONES: dict[str, Change] = {
    'values x10': times('data/value_target', 10.0),
    'targets lose their entropy': times('noreduce_target_policy_entropy', 0.0),
    'losses x20': both(times(LOSSES, 20.0), times('grad/', 20.0)),
    'gradients x20': times('grad/', 20.0),
    'observations x10': both(times('data/observation', 10.0), times('embeddings/', 1.4)),
    'steps x10': times(STEPS, 10.0),
    'no gradient': times('grad/', 0.0),
    'embeddings /5': times('embeddings/obs', 0.2),
}
"""What goes wrong for one task."""


@dataclass(frozen=True)
class Told:
    """What was said: warnings and errors before the fault, and from it on."""

    before: list[Finding]
    after: list[Finding]


class Prefix:
    """A healthy run that is judged once up to the fault, and then goes wrong in many ways."""

    def __init__(self, records: Sequence[Record], begin: int = BEGIN) -> None:
        self.records, self.begin = records, begin
        # The recording goes back and forth, so batches do come back.
        self._diagnosis = Diagnosis({}, options={'batch_repeats': False}, figures=DECLARED)
        for record in records[:begin]:
            self._diagnosis.observe(record)

    def broken(self, change: Change | None, task: int | None = None) -> Told:
        """Judge the rest of the run, altered."""
        diagnosis, first = copy.deepcopy(self._diagnosis), self.records[self.begin].iteration
        for record in self.records[self.begin :]:
            altered = Record(record.iteration, dict(record.scalars))
            if change is not None:
                change(altered, record.iteration - first, task)
            diagnosis.observe(altered)
        assert not diagnosis.switched_off
        found = [finding for finding in diagnosis.findings if finding.severity != 'info']
        return Told([f for f in found if f.found < first], [f for f in found if f.found >= first])
