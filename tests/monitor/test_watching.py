"""Learner steps between two published records: when they are watched, and who hears of them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from ding_normmon import INERT, Monitor
from ding_normmon.core.config import ConfigurationError, MonitorConfig
from ding_normmon.core.lost_data import LostData
from ding_normmon.core.record import Record
from ding_normmon.destinations.tensorboard.destination import TensorBoard
from ding_normmon.monitor.budget.watching import CADENCES, Watching, cadence_under
from ding_normmon.ranks.decisions.control import Control
from ding_normmon.runs import read_run
from ding_normmon.runs.history_file import FILE_NAME, HistoryFile
from tests.models import SmallModel, finished, learn, make_batches
from tests.monitor.steps import Recorder

pytestmark = pytest.mark.slow

EXEMPT = ('monitor/cost/',)


def train(steps: int, settings: dict[str, Any], spoil: int = -1, **kwargs: Any) -> tuple[Monitor, SmallModel]:
    """Train the small model; for three steps from ``spoil`` on the value head of task 1 is 1,000 times too large."""
    torch.manual_seed(0)
    model = SmallModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-8)
    monitor = Monitor(model, settings, num_tasks=3, **kwargs)
    for iteration in range(steps):
        if spoil >= 0 and iteration in (spoil, spoil + 3):
            model.head_value_multi_task[1].weight.data.mul_(1e3 if iteration == spoil else 1e-3)
        with monitor.step(iteration) as step:
            learn(model, make_batches(), step, optimizer)
    return monitor, model


def plain(records: list[Record]) -> list[tuple[int, dict[str, float]]]:
    """Iterations and figures that depend on no clock."""
    return [
        (record.iteration, {name: value for name, value in record.scalars.items() if not name.startswith(EXEMPT)})
        for record in records
    ]


def test_published_records_are_the_same_with_watching_and_without() -> None:
    results = []
    for watch in ('off', 1, 3, 4):
        recorder = Recorder()
        settings = {'monitor_norm_freq': 10, 'watch': watch, 'preset': 'full', 'diagnose': False, 'budget': None}
        monitor, model = train(31, settings, destinations=[recorder])
        records = finished(monitor)
        assert recorder.records == records
        weights = torch.cat([parameter.detach().ravel() for parameter in model.parameters()])
        results.append((plain(records), weights))
    for records, weights in results[1:]:
        assert records == results[0][0]
        # And training is the same to the last bit.
        assert torch.equal(weights, results[0][1])


def test_counts_since_the_last_record_are_those_of_published_records() -> None:
    shares = []
    for watch in ('off', 2):
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        settings = {'monitor_norm_freq': 5, 'watch': watch, 'clip_fraction': True}
        with Monitor(model, settings, optimizer=optimizer) as monitor:
            for iteration in range(11):
                optimizer.zero_grad()
                model(torch.ones(2, 4)).sum().backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1 if iteration in (1, 2, 6) else 100.0)
                optimizer.step()
        shares.append([record.scalars.get('clip/model/fraction') for record in monitor.take_records()])
    assert shares[0] == shares[1] == [0.0, 0.4, 0.2]


def test_an_off_step_gets_the_inert_object() -> None:
    monitor = Monitor(SmallModel(), {'monitor_norm_freq': 100, 'watch': 8}, num_tasks=3)
    due = [iteration for iteration in range(1, 33) if monitor.begin_step(iteration) is not INERT]
    assert due == [8, 16, 24, 32]
    monitor.close()


@pytest.mark.parametrize('watch', ['off', 100, 200])
def test_nothing_is_watched_where_that_says_so(watch: str | int) -> None:
    monitor = Monitor(SmallModel(), {'monitor_norm_freq': 100, 'watch': watch}, num_tasks=3)
    assert all(monitor.begin_step(iteration) is INERT for iteration in range(1, 100))
    monitor.close()


def test_what_is_watched_reaches_the_rules_and_no_curve(tmp_path: Path) -> None:
    from tensorboardX import SummaryWriter

    found: list[Any] = []
    writer = SummaryWriter(str(tmp_path))
    destinations = [TensorBoard(writer), HistoryFile(tmp_path / FILE_NAME)]
    settings = {'monitor_norm_freq': 1000, 'watch': 2, 'black_box': None, 'budget': None}
    monitor, _ = train(120, settings, spoil=90, destinations=destinations, callback=found.append)
    assert [record.iteration for record in finished(monitor)] == [0]
    writer.close()
    run = read_run(tmp_path)
    assert {iteration for series in run.series.values() for iteration in series.iterations.tolist()} == {0}
    # Told at once: to the log, the callback and the history, with the steps around it.
    assert found
    assert 90 <= found[0].found <= 92
    assert found[0].tasks == (1,)
    assert [finding.found for finding in run.findings][:1] == [found[0].found]
    incident = run.incidents[0]
    assert (incident.task, incident.since) == (1, 90)
    assert incident.window.iterations.tolist() == list(range(0, 120, 2))
    assert incident.first[0].task == 1


def test_findings_of_watched_steps_come_with_the_next_published_record() -> None:
    recorder = Recorder()
    found: list[Any] = []
    settings = {'monitor_norm_freq': 100, 'watch': 2, 'budget': None}
    monitor, _ = train(101, settings, spoil=60, destinations=[recorder], callback=found.append)
    records = finished(monitor)
    assert [record.iteration for record in recorder.records] == [0, 100]
    assert recorder.records[1].findings[0].found in (60, 62)
    assert records[1].findings == recorder.records[1].findings
    # The callback hears of each once.
    assert len({(entry.key, entry.cleared) for entry in found}) == len(found)


def test_the_first_line_of_the_log_says_what_is_watched(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, 'ding_normmon'):
        Monitor(SmallModel(), {}, num_tasks=3).close()
    first = caplog.records[0].message
    assert 'watched' in first
    assert '1% of training time' in first
    assert "watch='off'" in first


def test_the_cadence_is_the_smallest_power_of_two_within_the_budget() -> None:
    for cost, step in ((0.3, 100.0), (3.0, 10.0), (20.0, 7.0)):
        every = cadence_under(0.01, cost, step)
        assert cost / (step * every) <= 0.01
        assert every == 1 or cost / (step * every / 2) > 0.01
        assert every in CADENCES


def simulated(cost: float, step: float, seconds: float, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the cadences in force while a run goes on, with measurements of ``cost`` and steps of ``step`` ms."""
    now = [0.0]
    monkeypatch.setattr('ding_normmon.monitor.budget.watching.time.monotonic', lambda: now[0])
    control = Control(0, 1, 5000, LostData(), 60.0)
    watching = Watching(MonitorConfig(), control)
    cadences = []
    iteration = 0
    while now[0] < seconds:
        control.schedule.iteration = iteration
        if iteration >= control.schedule.next_iteration:
            control.reach(iteration)
        if watching.is_due(iteration):
            cadences.append(watching.every)
            list(watching.observe(True, cost * 0.8, cost * 0.2))
        now[0] += step / 1e3
        iteration += 1
    return cadences


def test_watching_finds_its_cadence_and_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for cost, step in ((2.0, 60.0), (5.0, 5.0), (1.0, 200.0)):
        cadences = simulated(cost, step, 120.0, monkeypatch)
        assert cadences
        assert cost / (step * cadences[-1]) <= 0.01
        assert len(set(cadences)) <= 4
        assert len(set(cadences[len(cadences) // 2 :])) == 1


def test_steps_too_short_to_watch_are_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    assert simulated(5.0, 0.05, 5.0, monkeypatch) == []


@pytest.mark.parametrize('watch', [0, -1, True, 'on', 2.5, None])
def test_what_watch_cannot_be_is_refused(watch: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"monitor\.watch: expected 'auto', 'off' or a number"):
        MonitorConfig.read({'watch': watch})


@pytest.mark.parametrize('size', ['64 bananas', 12, True, '0.5MB', [1]])
def test_what_a_black_box_cannot_be_is_refused(size: Any) -> None:
    with pytest.raises(ConfigurationError, match=r'monitor\.black_box: expected a size'):
        MonitorConfig.read({'black_box': size})
