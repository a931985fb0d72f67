"""Weights & Biases, with the real package, offline: what was logged is read back from its own file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import wandb

from ding_normmon.core.destination import RunDescription
from ding_normmon.core.finding import Finding
from ding_normmon.core.record import Record
from ding_normmon.destinations.wandb import WandB


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


@pytest.mark.slow
def test_names_iterations_and_findings_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in (('WANDB_SILENT', 'true'), ('WANDB_DIR', str(tmp_path)), ('WANDB_ERROR_REPORTING', 'false')):
        monkeypatch.setenv(key, value)
    destination = WandB(mode='offline', project='test', dir=str(tmp_path))
    destination.begin(RunDescription({0: 'Pong'}, {'monitor_norm_freq': 5}))
    finding = Finding('odd', 'warning', 3, 5, 'Task 0 (Pong): odd.', 'Wait.', tasks=(0,))
    destination.publish(
        Record(5, {'grad/model/_total_norm': 2.5, 'noreduce_value_loss_task0': 0.5}, findings=(finding,))
    )
    destination.publish(Record(10, {'grad/model/_total_norm': 3.5, 'late/figure': 1.0}))
    destination.close()
    wandb.teardown()  # ends the process that writes the file
    records = records_of(tmp_path)
    rows = [
        {(item.key or '/'.join(item.nested_key)): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof('record_type') == 'history'
    ]
    points = [
        (row['monitor_iteration'], row['grad/model/_total_norm']) for row in rows if 'grad/model/_total_norm' in row
    ]
    assert points == [(5, 2.5), (10, 3.5)]
    defined = {
        (r.metric.glob_name or r.metric.name): r.metric for r in records if r.WhichOneof('record_type') == 'metric'
    }
    assert {'grad/*', 'late/*', 'noreduce_value_loss_task0', 'monitor_iteration'} <= set(defined)
    alerts = [record.alert for record in records if record.WhichOneof('record_type') == 'alert']
    assert [(alert.title, alert.level) for alert in alerts] == [('odd: warning', 'WARN')]
    assert 'Task 0 (Pong): odd.' in alerts[0].text


def test_a_missing_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'wandb', None)
    with pytest.raises(ImportError, match='pip install wandb'):
        WandB()
