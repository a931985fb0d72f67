"""What the rules make of one recorded run."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.faults.scenarios import SHARED_FAULTS, Scenario
from ding_normmon.core.finding import Finding
from ding_normmon.runs import Run
from ding_normmon.runs.judge import diagnose

__all__ = ['EXPECTED_RULES', 'Verdict', 'judge']

EXPECTED_RULES: dict[str, set[str]] = {
    'loss_weight_up': {'gradient_jump', 'task_dominates', 'head_gradient_gap'},
    'loss_weight_down': {'gradient_jump', 'task_starves', 'head_gradient_gap'},
    'reward_scale': {'reward_scale', 'loss_jump', 'logit_runaway', 'gradient_jump'},
    'head_learning_rate': {'update_jump', 'head_drift', 'head_growth', 'gradient_jump'},
    'label_noise': {'loss_jump', 'gradient_jump'},
    'frozen_head': {'no_gradient'},
    'frozen_encoder': {'no_gradient'},
    'negated_policy': {'gradient_jump', 'loss_jump', 'logit_runaway', 'conflicting_pair', 'head_drift'},
    'weight_decay': {'head_drift', 'head_norm_gap', 'update_jump'},
    'zeroed_gradients': {'no_gradient', 'gradient_jump', 'task_starves'},
    'dead_encoder': {'dormant_units', 'representation_collapse'},
    'nan_rewards': {'non_finite'},
    'constant_observations': {'constant_data', 'representation_collapse'},
    'swapped_batches': {'twin_tasks'},
}
"""Rules whose finding says what is really wrong."""


@dataclass(frozen=True)
class Verdict:
    """What was found in one run.

    Arguments:
        scenario: the run.
        found: the first warning or error from the planted iteration on that fits: one about the right task, or for
            faults of shared parts one of an expected rule; None where there was none.
        named: whether the first warning or error that names tasks names the right one; True where no task is at fault.
        by_rule: whether an expected rule spoke, of the right task where one is at fault.
        false_warnings: warnings before the fault, or in a healthy run.
        false_errors: errors likewise.
        healthy_iterations: iterations in which a finding is a false one.
    """

    scenario: Scenario
    found: Finding | None
    named: bool
    by_rule: bool
    false_warnings: int
    false_errors: int
    healthy_iterations: int

    @property
    def delay(self) -> int | None:
        """Iterations from the fault to the finding."""
        return None if self.found is None else self.found.found - (self.scenario.planted or 0)


def judge(scenario: Scenario, run: Run) -> Verdict:
    """Apply the rules to a recorded run and compare with what was planted."""
    findings = [finding for finding in diagnose(run) if finding.severity != 'info']
    planted = scenario.iterations if scenario.planted is None else scenario.planted
    early = [finding for finding in findings if finding.found < planted]
    late = [finding for finding in findings if finding.found >= planted]
    expected = EXPECTED_RULES.get(scenario.fault, set())
    if scenario.fault in SHARED_FAULTS:
        fitting = [finding for finding in late if finding.rule in expected]
        named = bool(fitting)
    else:
        fitting = [finding for finding in late if scenario.task in finding.tasks]
        of_tasks = [finding for finding in late if finding.tasks]
        named = bool(of_tasks) and scenario.task in of_tasks[0].tasks
    return Verdict(
        scenario,
        fitting[0] if fitting else None,
        named,
        any(finding.rule in expected for finding in fitting),
        sum(finding.severity == 'warning' for finding in early),
        sum(finding.severity == 'error' for finding in early),
        planted,
    )
