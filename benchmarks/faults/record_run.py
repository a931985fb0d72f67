"""Train one scenario and keep its records."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ding_normmon.unizero.quiet import import_quietly

import_quietly('gym', 'gymnasium', 'ding.framework.middleware', 'lzero.policy')

from ding.framework import task  # noqa: E402
from ding.framework.context import OnlineRLContext  # noqa: E402

from benchmarks.faults.plants import make_fault  # noqa: E402
from benchmarks.faults.scenarios import Scenario  # noqa: E402
from ding_normmon import NormMonitor, init_writer  # noqa: E402
from ding_normmon.core.record import Record  # noqa: E402
from ding_normmon.unizero.run import MultiTaskRun  # noqa: E402
from ding_normmon.unizero.run_config import complete_config  # noqa: E402

__all__ = ['record_run']

FREQUENCY = 5

# `make train`'s configuration with less data per iteration, so that 54 runs end on two cores; schedules are fixed,
# because a budget would make them depend on what else the machine does.
SETTINGS: dict[str, Any] = {
    'policy.batch_size': 16,
    'policy.collector_env_num': 4,
    'policy.num_simulations': 4,
    'policy.replay_buffer_size': 1500,
    'collect.steps_per_environment': 10,
    'random_policy.episodes': 0,
    'checkpoint.frequency': 0,
    'policy.monitor.monitor_norm_freq': FREQUENCY,
    'policy.monitor.preset': 'multitask',
    'policy.monitor.conflict_freq': 25,
    'policy.monitor.plasticity_freq': 25,
    'policy.monitor.update_freq': 5,
    'policy.monitor.budget': None,
    'policy.monitor.diagnose': False,
}

LEARNING_RATE = 1e-3


class Keeper:
    """Keeps every record."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def publish(self, record: Record) -> None:
        self.records.append(record)

    def close(self) -> None:
        """Nothing is open."""


def record_run(scenario: Scenario) -> list[Record]:
    """Train the scenario in this process and return its records."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = complete_config(
            {'tasks': list(scenario.tasks), 'seed': scenario.seed, 'exp_name': str(Path(folder) / 'run')},
            {
                **SETTINGS,
                'policy.learning_rate': LEARNING_RATE * scenario.learning_rate_factor,
                'max_train_iter': scenario.iterations,
            },
            None,
        )
        init_writer(cfg)
        keeper = Keeper()
        with MultiTaskRun(cfg) as run, task.start(ctx=OnlineRLContext()):
            monitor = NormMonitor(cfg.policy.monitor, run.policy, destinations=[keeper])
            if scenario.planted is not None:
                _plant(run, scenario)
            task.use(run.collector)
            task.use(run.pusher)
            task.use(monitor)
            task.use(run.learner)
            task.use(run.stop_agreement)
            task.use(run.finish)
            task.run()
        return keeper.records


def _plant(run: MultiTaskRun, scenario: Scenario) -> None:
    """Let the fault see the batches of every learner iteration, from the planned one on."""
    assert scenario.planted is not None
    planted, iteration = scenario.planted, -1
    fault = make_fault(scenario.fault, run, scenario.task)
    sample = run.learner._sampler.sample

    def sample_with_fault() -> list[tuple[Any, Any, int]]:
        nonlocal iteration
        iteration += 1
        if iteration == planted:
            fault.begin()
        data = sample()
        return fault.alter(data) if iteration >= planted else data

    run.learner._sampler.sample = sample_with_fault  # type: ignore[method-assign]
