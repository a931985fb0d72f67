"""Train one scenario and keep its records."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

from ding_normmon.unizero.quiet import import_quietly

import_quietly('gym', 'gymnasium', 'ding.framework.middleware', 'lzero.policy')

from ding.framework import task  # noqa: E402
from ding.framework.context import OnlineRLContext  # noqa: E402

from benchmarks.faults.kinds import KINDS  # noqa: E402
from benchmarks.faults.kinds.fault import Batches  # noqa: E402
from benchmarks.faults.scenarios import Scenario  # noqa: E402
from ding_normmon import NormMonitor, init_writer  # noqa: E402
from ding_normmon.core.record import Record  # noqa: E402
from ding_normmon.unizero.run import MultiTaskRun  # noqa: E402
from ding_normmon.unizero.run_config import complete_config  # noqa: E402

__all__ = ['record_run']

# `make train`'s configuration with less data per iteration, so that many runs end on two cores. Every iteration is
# recorded; other frequencies are made of that. Schedules are fixed, because a budget would make them depend on what
# else the machine does.
SETTINGS: dict[str, Any] = {
    'policy.collector_env_num': 2,
    'policy.num_simulations': 2,
    'policy.update_per_collect': 40,
    'policy.replay_buffer_size': 1500,
    'collect.steps_per_environment': 10,
    'random_policy.episodes': 0,
    'checkpoint.frequency': 0,
    'policy.monitor.monitor_norm_freq': 1,
    'policy.monitor.preset': 'multitask',
    'policy.monitor.conflict_freq': 20,
    'policy.monitor.plasticity_freq': 10,
    'policy.monitor.update_freq': 1,
    'policy.monitor.budget': None,
    'policy.monitor.diagnose': False,
}

MORE_DATA = {
    'policy.collector_env_num': 4,
    'policy.num_simulations': 6,
    'policy.update_per_collect': 20,
    'collect.steps_per_environment': 20,
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
            {'tasks': list(scenario.names), 'seed': scenario.seed, 'exp_name': str(Path(folder) / 'run')},
            {
                **SETTINGS,
                **(MORE_DATA if scenario.more_data else {}),
                'policy.batch_size': scenario.batch_size,
                'policy.learning_rate': LEARNING_RATE * scenario.learning_rate,
                'max_train_iter': scenario.iterations,
            },
            None,
        )
        init_writer(cfg)
        keeper = Keeper()
        with MultiTaskRun(cfg) as run, task.start(ctx=OnlineRLContext()):
            monitor = NormMonitor(cfg.policy.monitor, run.policy, destinations=[keeper])
            _Changes(run, scenario).install()
            task.use(run.collector)
            task.use(run.pusher)
            task.use(monitor)
            task.use(run.learner)
            task.use(run.stop_agreement)
            task.use(run.finish)
            task.run()
        return keeper.records


class _Changes:
    """Plants the fault, and does what happens in a healthy run, just before the batches of an iteration are used."""

    def __init__(self, run: MultiTaskRun, scenario: Scenario) -> None:
        self.run, self.scenario = run, scenario
        self.iteration = -1
        self.optimizer = run.policy._optimizer_world_model
        self.rates = [group['lr'] for group in self.optimizer.param_groups]
        everyone = tuple(range(len(scenario.names)))
        if scenario.planted is not None:
            self.fault = KINDS[scenario.kind](run, scenario.tasks or everyone, scenario.strength)

    def install(self) -> None:
        """Stand between the replay buffers and the policy."""
        sampler = self.run.learner._sampler
        sample = sampler.sample

        def changed() -> Batches:
            self.iteration += 1
            self._schedule()
            self._begin()
            return self._alter(sample())

        sampler.sample = changed  # type: ignore[method-assign]

    def _begin(self) -> None:
        scenario, iteration = self.scenario, self.iteration
        if iteration == scenario.planted:
            self.fault.begin()
        if scenario.planted is not None and iteration == scenario.ends:
            self.fault.end()
        if scenario.event == 'resume' and iteration == scenario.iterations // 2:
            # What a resumed run has lost: its older data.
            for buffer in self.run.buffers.values():
                size, buffer.replay_buffer_size = buffer.replay_buffer_size, 2 * scenario.batch_size
                buffer.remove_oldest_data_to_fit()
                buffer.replay_buffer_size = size

    def _alter(self, data: Batches) -> Batches:
        scenario, iteration = self.scenario, self.iteration
        if scenario.event == 'leaves' and iteration >= scenario.iterations // 2:
            return [batch for batch in data if batch[2] != 0]
        if scenario.planted is None or iteration < scenario.planted or iteration >= (scenario.ends or math.inf):
            return data
        data = self.fault.alter(data)
        self.fault.since += 1
        return data

    def _schedule(self) -> None:
        part = self.iteration / self.scenario.iterations
        factor = {
            'cosine': 0.5 * (1 + math.cos(math.pi * part)),
            'step': 1.0 if part < 0.5 else 0.1,
            'warm_up': min(1.0, (self.iteration + 1) / 60),
        }.get(self.scenario.schedule)
        if factor is not None:
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group['lr'] = rate * factor
