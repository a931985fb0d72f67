"""Everything in an event file beside the figures, read back with TensorBoard's own reader and messages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboardX import SummaryWriter

from ding_normmon import attach
from ding_normmon.core.destination import RunDescription
from ding_normmon.core.finding import Finding
from ding_normmon.core.record import Record
from ding_normmon.destinations import TensorBoard
from ding_normmon.destinations.selection import for_dashboard
from ding_normmon.metrics import DECLARED
from tests.unizero.builders import random_batch, tiny_policy

FAMILIES = ('norm/', 'grad/', 'logits/', 'embeddings/', 'conflict/', 'update/', 'plasticity/')


def records_of(tasks: int) -> list[Record]:
    policy = tiny_policy(tasks)
    attachment = attach(policy, {'monitor_norm_freq': 1, 'preset': 'multitask', 'budget': None})
    for seed in range(2):
        policy._forward_learn([random_batch(policy, task_id, seed) for task_id in policy.task_ids])
    attachment.detach()
    return list(attachment.monitor.take_records())


@pytest.fixture(scope='module')
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('dashboard')
    writer = SummaryWriter(str(folder))
    destination = TensorBoard(writer)
    destination.begin(RunDescription({0: 'Pong', 1: '<b>Qbert</b>', 2: 'Boxing'}, {'monitor_norm_freq': 1}))
    finding = Finding('odd', 'warning', 1, 1, 'Task 1 (<b>Qbert</b>): odd.', 'Wait.', tasks=(1,))
    first, second = records_of(3)
    destination.publish(first)
    destination.publish(Record(second.iteration, second.scalars, second.matrices, findings=(finding,)))
    destination.close()
    writer.close()
    return folder


@pytest.fixture(scope='module')
def accumulator(written: Path) -> EventAccumulator:
    found = EventAccumulator(str(written), size_guidance={'scalars': 0, 'tensors': 0, 'images': 0})
    found.Reload()
    return found


def expressions(accumulator: EventAccumulator) -> dict[str, list[str]]:
    """Return the regular expressions of every chart, by category and title."""
    tensor = accumulator.Tensors('custom_scalars__config__')[-1].tensor_proto
    layout = Layout.FromString(tensor.string_val[0])
    found: dict[str, list[str]] = {}
    for category in layout.category:
        for chart in category.chart:
            tags = list(chart.multiline.tag)
            for series in chart.margin.series:
                tags += [series.value, series.lower, series.upper]
            found[f'{category.title} / {chart.title}'] = tags
    return found


def test_every_expression_finds_a_curve_and_every_curve_of_a_task_is_in_a_chart(accumulator: EventAccumulator) -> None:
    tags = accumulator.Tags()['scalars']
    charts = expressions(accumulator)
    assert len(charts) > 20
    for title, patterns in charts.items():
        for pattern in patterns:
            if 'eval' not in title.lower() and 'return' not in title.lower():
                assert any(re.fullmatch(pattern, tag) or re.search(pattern, tag) for tag in tags), (title, pattern)
    every = [re.compile(pattern) for patterns in charts.values() for pattern in patterns]
    of_tasks = [tag for tag in tags if re.search(r'_task\d', tag) and tag.startswith(FAMILIES)]
    assert len(of_tasks) > 100
    assert [tag for tag in of_tasks if not any(pattern.search(tag) for pattern in every)] == []


def test_names_of_tasks_findings_and_configuration_are_there(accumulator: EventAccumulator) -> None:
    texts = {
        tag: accumulator.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
        for tag in accumulator.Tags()['tensors']
        if accumulator.SummaryMetadata(tag).plugin_data.plugin_name == 'text'
    }
    everything = '\n'.join(texts.values())
    assert 'Pong' in everything
    assert 'odd' in everything
    assert '<b>' not in everything
    plugin = accumulator.PluginTagToContent('hparams')
    data = {tag: HParamsPluginData.FromString(content) for tag, content in plugin.items()}
    values = next(d.session_start_info.hparams for d in data.values() if d.HasField('session_start_info'))
    assert 'monitor_norm_freq' in ' '.join(values)


@pytest.mark.slow
def test_twenty_six_tasks_stay_below_fifteen_hundred_tags() -> None:
    record = records_of(26)[-1]
    assert len(record.scalars) > 1800
    # 340 are left for returns and what the logger of DI-engine writes.
    assert len(for_dashboard(record.scalars, DECLARED)) < 1200
