"""What the rules make of one recorded run."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.faults.kinds import KINDS
from benchmarks.faults.scenarios import Scenario
from ding_normmon.core.finding import Finding
from ding_normmon.core.metric_names import with_task
from ding_normmon.runs import Run, Series
from ding_normmon.runs.judge import diagnose

__all__ = ['Verdict', 'breaks_nothing', 'in_tree', 'judge', 'thinned']

_OF_TASKS = ('data', 'targets', 'losses')

_NOTHING = 1e-3

_IN_TREE = re.compile(
    r'(norm|grad)/(encoder|transformer|head_(value|reward|policy)(_task\d+|_all_tasks)?)/\w+'
    r'|(logits/(value|policy|reward)|embeddings/obs|norm/x_token)/\w+'
    r'|noreduce_\w+'
)


@dataclass(frozen=True)
class Verdict:
    """What was found in one run.

    Arguments:
        scenario: the run.
        every: iterations between its records.
        right: the first warning or error from the planted iteration on that names what is at fault; None: missed.
        first: the first warning or error of any kind from then on.
        early: warnings and errors before, or in a healthy run.
        healthy_iterations: iterations in which a finding is a false one.
    """

    scenario: Scenario
    every: int
    right: Finding | None
    first: Finding | None
    early: tuple[Finding, ...]
    healthy_iterations: int

    @property
    def is_wrong(self) -> bool:
        """Whether the first thing that was said names what is not at fault."""
        return self.first is not None and not names_fault(self.scenario, self.first)

    @property
    def delay(self) -> int | None:
        """Iterations from the fault to the finding."""
        return None if self.right is None else self.right.found - (self.scenario.planted or 0)


def names_fault(scenario: Scenario, finding: Finding) -> bool:
    """Return whether a finding is about what is at fault.

    One of a task names that task, at most with one that has the same; one of a rank some of its tasks. Where all tasks
    have wrong data, targets or losses, any of them may be named; where the optimizer, the network or a schedule is at
    fault, none.
    """
    if len(scenario.names) == 1:
        return True
    if scenario.tasks:
        named = set(finding.tasks) & set(scenario.tasks)
        return bool(named) and len(finding.tasks) <= max(len(scenario.tasks), 2)
    return scenario.family in _OF_TASKS or not finding.tasks


def judge(scenario: Scenario, run: Run, every: int = 1) -> Verdict:
    """Apply the rules to a recorded run, as if it had been measured less often."""
    found = [finding for finding in diagnose(thinned(run, every)) if finding.severity != 'info']
    planted = scenario.iterations if scenario.planted is None else scenario.planted
    late = [finding for finding in found if finding.found >= planted]
    return Verdict(
        scenario,
        every,
        next((finding for finding in late if names_fault(scenario, finding)), None),
        late[0] if late else None,
        tuple(finding for finding in found if finding.found < planted),
        planted,
    )


def breaks_nothing(scenario: Scenario, run: Run) -> bool:
    """Return whether a fault multiplies what was 0 all the time: nobody could find it, and it has done nothing."""
    kind = KINDS.get(scenario.kind)
    if kind is None or not kind.multiplies:
        return False
    tasks = scenario.tasks or range(len(scenario.names))
    signals = [with_task(kind.multiplies, task if len(scenario.names) > 1 else None) for task in tasks]
    names = [f'{signal}/abs_max' for signal in signals]
    sizes = [float(np.nanmax(run.series[name].values, initial=0.0)) for name in names if name in run.series]
    return bool(sizes) and max(sizes) < _NOTHING


def thinned(run: Run, every: int, keep: Callable[[str], bool] = lambda name: True) -> Run:
    """Return a run with its records at every so many iterations only, and with the metrics that are kept."""
    series, matrices = {}, {}
    for name, points in run.series.items():
        if keep(name):
            chosen = points.iterations % every == 0
            series[name] = Series(points.iterations[chosen], points.values[chosen], points.times[chosen])
    for name, stack in run.matrices.items():
        if keep(name):
            chosen = stack.iterations % every == 0
            matrices[name] = dataclasses.replace(
                stack, iterations=stack.iterations[chosen], values=stack.values[chosen]
            )
    return dataclasses.replace(run, series=series, matrices=matrices)


def in_tree(name: str) -> bool:
    """Return whether LightZero's in-tree monitor has a figure of that name.

    Example:
        >>> in_tree('grad/head_value_task3/_total_norm'), in_tree('logits/value/max'), in_tree('logits/value_task3/max')
        (True, True, False)
    """
    return _IN_TREE.fullmatch(name) is not None
