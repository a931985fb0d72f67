"""Weights & Biases, with the real package, offline: what was logged is read back from its own file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb

from ding_normmon import Monitor
from ding_normmon.core.destination import RunDescription
from ding_normmon.core.finding import Finding
from ding_normmon.core.record import Record
from ding_normmon.destinations.wandb import WandB
from tests.sampling import sampled


def records_of(folder: Path) -> list[Any]:
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    (path,) = folder.rglob('*.wandb')
    store = DataStore()
    store.open_for_scan(str(path))
    found = []
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        found.append(record)
    return found


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [
        {(item.key or '/'.join(item.nested_key)): json.loads(item.value_json) for item in record.history.item}
        for record in records_of(folder)
        if record.WhichOneof('record_type') == 'history'
    ]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for key, value in (('WANDB_SILENT', 'true'), ('WANDB_DIR', str(tmp_path)), ('WANDB_ERROR_REPORTING', 'false')):
        monkeypatch.setenv(key, value)
    return tmp_path


@pytest.mark.slow
def test_names_iterations_and_findings_arrive(folder: Path) -> None:
    destination = WandB(mode='offline', project='test', dir=str(folder))
    destination.begin(RunDescription({0: 'Pong'}, {'monitor_norm_freq': 5}))
    finding = Finding('odd', 'warning', 3, 5, 'Task 0 (Pong): odd.', 'Wait.', tasks=(0,))
    destination.publish(
        Record(5, {'grad/model/_total_norm': 2.5, 'noreduce_value_loss_task0': 0.5}, findings=(finding,))
    )
    destination.publish(Record(10, {'grad/model/_total_norm': 3.5, 'late/figure': 1.0}))
    destination.close()
    wandb.teardown()  # ends the process that writes the file
    records = records_of(folder)
    points = [
        (row['monitor_iteration'], row['grad/model/_total_norm'])
        for row in rows_of(folder)
        if 'grad/model/_total_norm' in row
    ]
    assert points == [(5, 2.5), (10, 3.5)]
    defined = {
        (r.metric.glob_name or r.metric.name): r.metric for r in records if r.WhichOneof('record_type') == 'metric'
    }
    assert {'grad/*', 'late/*', 'noreduce_value_loss_task0', 'monitor_iteration'} <= set(defined)
    alerts = [record.alert for record in records if record.WhichOneof('record_type') == 'alert']
    assert [(alert.title, alert.level) for alert in alerts] == [('odd: warning', 'WARN')]
    assert 'Task 0 (Pong): odd.' in alerts[0].text


STEPS = {
    'slower than records': lambda i: {'step': i // 3},
    'none': lambda i: {},
    'faster than records': lambda i: {'step': 10 * i},
    'committed later': lambda i: {'commit': i % 4 == 3},
}


@pytest.mark.slow
@pytest.mark.parametrize('kind', sampled(STEPS, 2))
def test_whatever_steps_others_log_at_their_points_and_all_records_survive(kind: str, folder: Path) -> None:
    points = {}
    for monitored in (False, True):
        here = folder / str(monitored)
        here.mkdir()
        run = wandb.init(mode='offline', project='test', dir=str(here))
        destination = WandB(run)
        for i in range(24):
            run.log({'loss': float(i)}, **STEPS[kind](i))
            if monitored:
                destination.publish(Record(i, {'grad/model/_total_norm': 2.0 * i}))
        destination.close()
        run.log({'loss': -1.0}, **STEPS[kind](24))
        run.finish(quiet=True)
        wandb.teardown()
        points[monitored] = [(row['_step'], row['loss']) for row in rows_of(here) if 'loss' in row]
    assert points[True] == points[False] != []
    found = [row for row in rows_of(folder / 'True') if 'grad/model/_total_norm' in row]
    assert [(row['monitor_iteration'], row['grad/model/_total_norm']) for row in found] == [
        (i, 2.0 * i) for i in range(24)
    ]


def train(folder: Path, iterations: range, state: dict[str, int] | None = None, saved_at: int = 0) -> dict[str, int]:
    """Train with a monitor that starts a wandb run of its own; return what a checkpoint keeps of it."""
    model = torch.nn.Linear(2, 1)
    folder.mkdir()
    monitor = Monitor(
        model, {'monitor_norm_freq': 2}, destinations=[WandB(mode='offline', project='test', dir=str(folder))]
    )
    if state is not None:
        monitor.load_state_dict(state)
    for iteration in iterations:
        if iteration == saved_at:
            state = monitor.state_dict()
        with monitor.step(iteration) as step:
            loss = model(torch.ones(1, 2)).sum()
            step.forward_end()
            loss.backward()
            step.backward_end()
    monitor.close()
    wandb.teardown()
    assert state is not None
    return state


@pytest.mark.slow
@pytest.mark.full
def test_a_resumed_run_is_a_new_run_of_the_same_group(folder: Path) -> None:
    """What is abandoned cannot be taken out of a run that wandb has; a resumed one does not write into it."""
    state = train(folder / 'first', range(12), saved_at=5)
    again = train(folder / 'second', range(5, 20), state, saved_at=11)
    train(folder / 'third', range(11, 15), again)
    train(folder / 'other', range(4))
    runs = {}
    for start in ('first', 'second', 'third', 'other'):
        (run,) = [record.run for record in records_of(folder / start) if record.WhichOneof('record_type') == 'run']
        iterations = [row['monitor_iteration'] for row in rows_of(folder / start) if 'monitor_iteration' in row]
        runs[start] = run.run_id, run.run_group, iterations
    assert len({identity for identity, _, _ in runs.values()}) == 4
    groups = [group for _, group, _ in runs.values()]
    assert groups[0] == groups[1] == groups[2] != ''
    assert groups[3] not in ('', groups[0])
    assert [iterations for _, _, iterations in runs.values()][:3] == [
        [0, 2, 4, 6, 8, 10],
        [6, 8, 10, 12, 14, 16, 18],
        [12, 14],
    ]


def test_a_missing_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'wandb', None)
    with pytest.raises(ImportError, match='pip install wandb'):
        WandB()
