"""A metric and a rule of one's own come in through every entrance, and are refused alike where they are none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from ding_normmon import ConfigurationError, Monitor, NormMonitor, NormMonitorHook, attach
from ding_normmon.core.figure import Chart, Figure
from ding_normmon.core.record import Record
from ding_normmon.core.step import LearnerStep
from ding_normmon.diagnose import Rule, Sign, Window
from ding_normmon.metrics import Metric, default_metrics
from ding_normmon.rows import RowBuffer, RowKey, RowTable
from ding_normmon.rows.moments import norm, row_of
from tests.integrations.ding_engine.learners import make_learner
from tests.integrations.ding_engine.policies import CASES
from tests.integrations.small_policies import Policy


class WeightSize(Metric):
    """``mine/{group}/size``: L2 norm of a group's weights after the step."""

    name: ClassVar[str] = 'weight_size'
    figures: ClassVar[tuple[Figure, ...]] = (
        Figure('mine/{group}/size', 'L2 norm after the step', 'weight', chart=Chart('Mine', 'Sizes')),
    )
    hook_points: ClassVar[tuple[str, ...]] = ('step_end',)

    def measure(self, hook_point: str, step: LearnerStep, rows: RowBuffer) -> None:
        for group in self.setup.owned_groups:
            weights = torch.cat([p.detach().reshape(-1) for p in group.parameters])
            rows.write(RowKey(self.name, group.name), row_of(weights))

    def derive(self, table: RowTable) -> Iterator[tuple[str, float]]:
        for name, tasks in table.of(self.name).items():
            yield f'mine/{name}/size', norm(tasks[None])


@dataclass
class Always(Rule):
    """Finds something as soon as there is a size."""

    name: ClassVar[str] = 'always'
    advice: ClassVar[str] = 'Nothing.'
    reads: ClassVar[tuple[str, ...]] = ('mine/',)
    confirm: int = 1
    warmup: int = 0

    def signs(self, window: Window) -> Iterable[Sign]:
        for name in window.matching('mine/.+/size'):
            yield Sign(f'{name} is there.', group=name)


CONFIG = {'monitor_norm_freq': 1}
DATA = torch.ones(5, 4)


def through_monitor(folder: Path, metrics: Any, rules: Any) -> list[Record]:
    policy = Policy()
    optimizer = policy._optimizer
    with Monitor(policy._learn_model, CONFIG, optimizer=optimizer, metrics=metrics, rules=rules) as monitor:
        for _ in range(2):
            policy._forward_learn(DATA)
    return monitor.take_records()


def through_attach(folder: Path, metrics: Any, rules: Any) -> list[Record]:
    policy = Policy()
    attachment = attach(policy, CONFIG, metrics=metrics, rules=rules)
    for _ in range(2):
        policy._forward_learn(DATA)
    attachment.detach()
    return attachment.monitor.take_records()


def through_middleware(folder: Path, metrics: Any, rules: Any) -> list[Record]:
    policy, context = Policy(), SimpleNamespace(train_iter=0)
    middleware = NormMonitor(CONFIG, policy, [], metrics=metrics, rules=rules)
    for iteration in range(2):
        context.train_iter = iteration
        middleware(context)
        policy._forward_learn(DATA)
    middleware.close()
    return [*context.monitor_records, *middleware.monitor.take_records()]


def through_learner_hook(folder: Path, metrics: Any, rules: Any) -> list[Record]:
    policy = CASES['DQN'].make()
    learner = make_learner(policy)
    hook = NormMonitorHook(CONFIG, metrics=metrics, rules=rules)
    learner.register_hook(hook)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        learner.train(*CASES['DQN'].batch(generator))
    hook.close()
    return hook.monitor.take_records()


ENTRANCES = [through_monitor, through_attach, through_middleware, through_learner_hook]
each_entrance = pytest.mark.parametrize('entrance', ENTRANCES, ids=lambda entrance: entrance.__name__)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@each_entrance
def test_a_metric_and_a_rule_of_ones_own(entrance: Any, folder: Path) -> None:
    records = entrance(folder, [*default_metrics(), WeightSize()], [Always()])
    assert [record.iteration for record in records] == [0, 1]
    for record in records:
        sizes = {name for name in record.scalars if name.startswith('mine/')}
        assert sizes
        assert 'grad/model/_total_norm' in record.scalars
    # The next record's weights before the step are those that were measured after this one's.
    for name in sizes:
        before = name.replace('mine/', 'norm/').replace('/size', '/_total_norm')
        assert records[1].scalars[before] == pytest.approx(records[0].scalars[name], rel=1e-12)
    found = {finding.rule for record in records for finding in record.findings}
    assert found == {'always'}


@each_entrance
def test_only_what_was_asked_for_is_measured(entrance: Any, folder: Path) -> None:
    records = entrance(folder, [WeightSize()], [])
    families = {name.partition('/')[0] for record in records for name in record.scalars}
    assert families <= {'mine', 'monitor'}
    assert len(records) == 2


@each_entrance
@pytest.mark.parametrize(('metrics', 'rules'), [('full', []), ([WeightSize], []), (None, [5])])
def test_what_is_neither_is_refused(entrance: Any, metrics: Any, rules: Any, folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r'monitor: .*(metric|rule)'):
        entrance(folder, metrics, rules)
