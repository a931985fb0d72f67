"""Findings between a record and its destinations: each is found once, logged once and acted upon, within the budget."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from ding_normmon import ConfigurationError, Monitor
from ding_normmon.cli import main as command_line
from ding_normmon.core.config import MonitorConfig
from ding_normmon.core.finding import Finding
from ding_normmon.core.lost_data import LostData
from ding_normmon.core.record import Record
from ding_normmon.diagnose import Rule, Sign, Window
from ding_normmon.monitor.findings.stage import DiagnosisStage, FindingCallback
from ding_normmon.ranks.decisions.control import Control
from ding_normmon.runs.history_file import HistoryFile


@dataclass
class LargeNorm(Rule):
    """The norm of the model is above a limit."""

    name: ClassVar[str] = 'large_norm'
    advice: ClassVar[str] = 'Nothing.'
    limit: float = 0.0
    confirm: int = 1
    clear: int = 1
    warmup: int = 0

    def signs(self, window: Window) -> Iterable[Sign]:
        norm = window.record.scalars['norm/model/_total_norm']
        if norm > self.limit:
            yield Sign(f'The norm is {norm:.3g}.')


def train(monitor: Monitor, model: nn.Module, steps: int = 6) -> list[Record]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for iteration in range(steps):
        with monitor.step(iteration) as step:
            loss = model(torch.ones(2, 3)).square().mean()
            step.forward_end()
            optimizer.zero_grad()
            loss.backward()
            step.backward_end()
            optimizer.step()
    monitor.close()
    return monitor.take_records()


def test_findings_are_in_their_record_in_the_log_once_and_with_the_callback(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Finding] = []
    model = nn.Linear(3, 1)
    config = {'monitor_norm_freq': 1, 'budget': None}
    monitor = Monitor(model, config, rules=[LargeNorm()], destinations=[FindingCallback(told.append)])
    with caplog.at_level(logging.INFO):
        records = train(monitor, model)
    assert [[finding.rule for finding in record.findings] for record in records] == [['large_norm'], [], [], [], [], []]
    assert [finding.rule for finding in monitor.diagnosis.active] == ['large_norm']
    assert [finding.rule for finding in told] == ['large_norm']
    lines = [record for record in caplog.records if 'large_norm' in record.getMessage()]
    assert [line.levelno for line in lines] == [logging.WARNING]
    assert 'monitor/cost/ms_diagnosis' in records[0].scalars


def test_switched_off_nothing_is_judged() -> None:
    model = nn.Linear(3, 1)
    monitor = Monitor(model, {'monitor_norm_freq': 1, 'diagnose': False})
    records = train(monitor, model)
    assert not monitor.diagnosis.is_on
    assert 'monitor/cost/ms_diagnosis' not in records[0].scalars


def test_a_stop_is_requested_once_and_reaches_the_callback(caplog: pytest.LogCaptureFixture) -> None:
    model, stopped = nn.Linear(3, 1), []
    config = {'monitor_norm_freq': 1, 'budget': None, 'on_finding': {'large_norm': 'stop'}}
    monitor = Monitor(model, config, rules=[LargeNorm()])
    monitor.control.on('stop', lambda decision: stopped.append(decision.iteration))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    for iteration in range(400):
        with monitor.step(iteration) as step:
            loss = model(torch.ones(2, 3)).square().mean()
            step.forward_end()
            loss.backward()
            step.backward_end()
            optimizer.step()
        time.sleep(0.002)
        if stopped:
            break
    monitor.close()
    assert len(stopped) == 1
    assert stopped[0] <= iteration + 1
    assert monitor.diagnosis.asked['stop'].rule == 'large_norm'


class Slow:
    """Takes 20 ms of a processor for a record."""

    active: tuple[Finding, ...] = ()
    findings: tuple[Finding, ...] = ()
    switched_off: ClassVar[dict[str, str]] = {}

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.checked: list[int] = []

    def name_tasks(self, tasks: Mapping[int, str]) -> None:
        raise AssertionError('nobody has named any')

    def observe(self, record: Record) -> tuple[Finding, ...]:
        self.seen.append(record.iteration)
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass
        return ()

    def check(self, record: Record) -> tuple[Finding, ...]:
        self.checked.append(record.iteration)
        return ()


def test_records_are_left_out_to_stay_within_the_budget_but_not_those_with_nan() -> None:
    judge = Slow()
    stage = DiagnosisStage(judge, LostData(), share=0.005)
    for iteration in range(20):
        scalars = {'monitor/nonfinite/grad/encoder': 1.0} if iteration == 7 else {}
        stage.judge(Record(iteration, scalars))
    assert judge.seen == [0, 7]
    # The invariants see every record, and the past that later records are compared with has no holes.
    assert judge.checked == [iteration for iteration in range(20) if iteration not in (0, 7)]


def test_a_jump_is_judged_although_there_is_no_time() -> None:
    judge = Slow()
    stage = DiagnosisStage(judge, LostData(), share=0.005)
    for iteration in range(40):
        stage.judge(Record(iteration, {'grad/model/_total_norm': 1e10 if iteration >= 30 else 1.0 + iteration % 3}))
    assert judge.seen[:4] == [0, 30, 31, 32]
    assert len(judge.seen) < 12


def test_a_gradient_that_a_clip_took_away_is_judged_although_there_is_no_time() -> None:
    judge = Slow()
    stage = DiagnosisStage(judge, LostData(), share=0.005)
    for iteration in range(20):
        stage.judge(Record(iteration, {'clip/model/coefficient': 0.0 if iteration in (8, 9) else 0.5}))
    assert judge.seen == [0, 8, 9]


@pytest.mark.parametrize(('budget', 'share'), [(0.02, 0.005), (None, None)])
def test_judging_gets_a_quarter_of_the_budget(budget: float | None, share: float | None) -> None:
    config, lost_data = MonitorConfig.read({'budget': budget}), LostData()
    stage = DiagnosisStage.of(config, (), Control(0, 1, 1, lost_data, deadline=60), lost_data, rank=0)
    assert getattr(stage._time_share, '_share', None) == share


def test_records_that_come_together_are_judged_together(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    for name in ('perf_counter', 'thread_time'):
        monkeypatch.setattr(f'ding_normmon.monitor.findings.stage.time.{name}', lambda: clock[0])

    class Usually(Slow):
        def observe(self, record: Record) -> tuple[Finding, ...]:
            self.seen.append(record.iteration)
            clock[0] += 0.001
            return ()

    judge = Usually()
    stage = DiagnosisStage(judge, LostData(), share=0.01)
    for iteration in range(120):
        # Twelve at once, once in a second, of which the share pays for ten, and once for twice as many.
        clock[0] = max(clock[0], iteration // 12)
        stage.judge(Record(iteration, {}))
    assert 100 <= len(judge.seen) <= 112
    assert judge.seen[:24] == list(range(24))


def test_waiting_for_the_learner_is_not_paid_for() -> None:
    class Waits(Slow):
        def observe(self, record: Record) -> tuple[Finding, ...]:
            self.seen.append(record.iteration)
            time.sleep(0.01)
            return ()

    judge = Waits()
    stage = DiagnosisStage(judge, LostData(), share=0.05)
    for iteration in range(20):
        stage.judge(Record(iteration, {}))
    assert len(judge.seen) == 20


def test_one_slow_record_is_not_paid_for_with_many(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    for name in ('perf_counter', 'thread_time'):
        monkeypatch.setattr(f'ding_normmon.monitor.findings.stage.time.{name}', lambda: clock[0])

    class Usually(Slow):
        def observe(self, record: Record) -> tuple[Finding, ...]:
            self.seen.append(record.iteration)
            clock[0] += 0.5 if record.iteration == 10 else 0.001
            return ()

    judge = Usually()
    stage = DiagnosisStage(judge, LostData(), share=0.01)
    for iteration in range(30):
        clock[0] = max(clock[0], 0.2 * iteration)
        stage.judge(Record(iteration, {}))
    # Record 10 took until 11 and 12 had come; all others take 1 ms in 200.
    assert set(range(30)) - set(judge.seen) <= {11, 12}
    assert len(judge.seen) >= 28


def test_a_judge_that_fails_costs_a_count_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Slow):
        def observe(self, record: Record) -> tuple[Finding, ...]:
            raise KeyError('nonsense')

    lost_data = LostData()
    stage = DiagnosisStage(Failing(), lost_data)
    records = [stage.judge(Record(iteration, {'a': 1.0})) for iteration in range(3)]
    assert [record.scalars['a'] for record in records] == [1.0] * 3
    assert lost_data.total == {'diagnosis': 3}


@dataclass
class Broken(LargeNorm):
    """Raises in its third record."""

    name: ClassVar[str] = 'broken'

    def signs(self, window: Window) -> Iterable[Sign]:
        if window.iteration == 2:
            raise KeyError('nonsense')
        return ()


def test_a_rule_that_raises_is_logged_once_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(3, 1)
    config = {'monitor_norm_freq': 1, 'budget': None, 'rules': {'large_norm': {'warmup': 3}}}
    monitor = Monitor(model, config, rules=[Broken(), LargeNorm()])
    records = train(monitor, model)
    assert [record.scalars.get('monitor/lost/rule_broken') for record in records] == [None, None, None, 1.0, None, None]
    assert [[finding.rule for finding in record.findings] for record in records][3] == ['large_norm']
    assert sum('broken' in line.getMessage() and 'switched off' in line.getMessage() for line in caplog.records) == 1


def test_a_callback_that_raises_is_counted_and_called_again() -> None:
    told: list[str] = []

    def callback(finding: Finding) -> None:
        told.append(finding.rule)
        raise OSError('no network')

    model = nn.Linear(3, 1)
    monitor = Monitor(model, {'monitor_norm_freq': 1, 'budget': None}, rules=[LargeNorm()], callback=callback)
    records = train(monitor, model)
    assert told == ['large_norm']
    assert len(records) == 6
    assert monitor.lost_data.total['destination_FindingCallback'] == 1


def test_an_action_without_a_callback_is_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(3, 1)
    config = {'monitor_norm_freq': 1, 'budget': None, 'on_finding': {'warning': 'checkpoint'}}
    monitor = Monitor(model, config, rules=[LargeNorm()])
    train(monitor, model)
    assert monitor.lost_data.total['finding_checkpoint'] == 1
    assert "monitor.control.on('checkpoint', ...)" in caplog.text
    assert monitor.diagnosis.asked == {}


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        ({'rules': {'large_nrm': False}}, r'monitor\.rules\.large_nrm: no such rule; the nearest is large_norm'),
        ({'rules': {'large_norm': {'limt': 1.0}}}, r'monitor\.rules\.large_norm\.limt: .* the nearest is limit'),
        ({'on_finding': {'eror': 'stop'}}, r'monitor\.on_finding\.eror: .* the nearest is error'),
        ({'on_finding': {'large_nrm': 'stop'}}, r'monitor\.on_finding\.large_nrm: .* the nearest is large_norm'),
    ],
)
def test_unknown_rule_names_are_refused_at_set_up(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Monitor(nn.Linear(3, 1), {'monitor_norm_freq': 1, **config}, rules=[LargeNorm()])


@pytest.mark.parametrize(('values', 'code'), [([1.0] * 60, 0), ([1.0] * 40 + [300.0] * 20, 1)])
@pytest.mark.parametrize('form', ['text', 'json'])
def test_diagnose_ends_with_what_is_the_matter(
    values: list[float], code: int, form: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    file = HistoryFile(tmp_path / 'history.arrows')
    for number, value in enumerate(values):
        file.publish(Record(10 * number, {'grad/encoder/_total_norm': value, 'norm/encoder/_total_norm': 3.0}))
    file.close()
    monkeypatch.setattr(sys, 'argv', ['normmon', 'diagnose', str(tmp_path), '--format', form])
    monkeypatch.setattr(sys, 'path', list(sys.path))
    with pytest.raises(SystemExit) as left:
        command_line.main()
    assert (left.value.code or 0) == code
    printed = capsys.readouterr().out
    assert ('gradient_jump' in printed.split('not_judged')[0].split('Not judged')[0]) == bool(code)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--rules', 'gradient_jumps'], 'the nearest is gradient_jump'),
        (['--format', 'xml'], 'xml'),
        (['--nonsense'], 'nonsense'),
    ],
)
def test_diagnose_says_what_it_cannot_do(
    arguments: list[str], message: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    file = HistoryFile(tmp_path / 'history.arrows')
    file.publish(Record(0, {'norm/encoder/_total_norm': 3.0}))
    file.close()
    monkeypatch.setattr(sys, 'argv', ['normmon', 'diagnose', str(tmp_path), *arguments])
    monkeypatch.setattr(sys, 'path', list(sys.path))
    with pytest.raises(SystemExit) as left:
        command_line.main()
    assert left.value.code == 3
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    'sign',
    [5, None, Sign('x', severity='nope'), Sign('x', evidence=None), Sign('x', evidence={'a': 'b'}), Sign('x', tasks=5)],  # type: ignore[arg-type]
)
def test_a_rule_with_invalid_signs_affects_only_itself(sign: Any) -> None:
    @dataclass
    class Odd(LargeNorm):
        name: ClassVar[str] = 'odd'

        def signs(self, window: Window) -> Iterable[Sign]:
            yield sign

    model = nn.Linear(3, 1)
    monitor = Monitor(model, {'monitor_norm_freq': 1, 'budget': None}, rules=[Odd(), LargeNorm()])
    records = train(monitor, model)
    assert len(records) == 6
    assert [finding.rule for finding in monitor.diagnosis.findings] == ['large_norm']
    assert monitor.lost_data.total == {'rule_odd': 1}


def test_tasks_of_a_sign_may_be_a_list() -> None:
    @dataclass
    class Listed(LargeNorm):
        name: ClassVar[str] = 'listed'

        def signs(self, window: Window) -> Iterable[Sign]:
            yield Sign('The norm.', tasks=[0])  # type: ignore[arg-type]

    model = nn.Linear(3, 1)
    monitor = Monitor(model, {'monitor_norm_freq': 1, 'budget': None}, rules=[Listed()])
    train(monitor, model)
    assert [finding.tasks for finding in monitor.diagnosis.findings] == [(0,)]


def test_a_rule_class_instead_of_an_instance_is_refused() -> None:
    with pytest.raises(ConfigurationError, match='expected a rule'):
        Monitor(nn.Linear(3, 1), {'monitor_norm_freq': 1}, rules=[LargeNorm])
