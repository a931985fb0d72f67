"""The event file of a real run holds every fixed name for every task, at the monitored iterations and nowhere else."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ding_normmon.destinations.tensorboard.tags import OVERVIEW

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

TASKS = range(4)
MONITORED = [0, 5, 10, 15]
HEADS = ('head_value', 'head_reward', 'head_policy')


def fixed_names() -> list[str]:
    """Return every metric name of the reference that has no 'when asked for', for the tasks of all ranks."""
    names = []
    for family in ('norm', 'grad'):
        names += [f'{family}/{group}/_total_norm' for group in ('encoder', 'transformer', 'model')]
        for head in HEADS:
            names += [f'{family}/{head}_task{task}/_total_norm' for task in TASKS]
            names += [f'{family}/{head}_all_tasks/{statistic}' for statistic in ('mean', 'std')]
    suffixes = ['', *(f'_task{task}' for task in TASKS)]
    for suffix in suffixes:
        names += [f'norm/x_token{suffix}/{statistic}' for statistic in ('mean', 'std', 'max', 'min')]
        names += [f'embeddings/obs{suffix}/norm_{statistic}' for statistic in ('mean', 'std', 'max', 'min')]
        for head in ('value', 'policy', 'reward'):
            names += [
                f'logits/{head}{suffix}/{statistic}' for statistic in ('mean', 'std', 'max', 'min', 'abs_max')
            ]
    for loss in ('obs', 'policy', 'value', 'reward', 'orig_policy', 'latent_recon', 'perceptual'):
        names += [f'noreduce_{loss}_loss_task{task}' for task in TASKS]
    return names


@pytest.fixture(scope='module')
def events(short_run: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(short_run), size_guidance={'scalars': 0})
    accumulator.Reload()
    return accumulator


def test_every_fixed_name_has_points_at_the_monitored_iterations_and_nowhere_else(events: EventAccumulator) -> None:
    written = set(events.Tags()['scalars'])
    names = fixed_names()
    assert not [name for name in names if name not in written]
    for name in names:
        points = events.Scalars(name)
        assert [point.step for point in points] == MONITORED, name
        assert all(math.isfinite(point.value) for point in points), name


def test_scalars_open_on_returns_and_gradient_norms(events: EventAccumulator) -> None:
    tags = sorted(events.Tags()['scalars'])
    first = [tag.removeprefix(OVERVIEW) for tag in tags if tag.startswith(OVERVIEW)]
    # TensorBoard sorts digits before letters and opens the first groups only.
    assert [tag for tag in tags if tag < OVERVIEW] == []
    assert {'grad/model/_total_norm', 'norm/model/_total_norm', 'grad/encoder/_total_norm'} <= set(first)
    # Returns come first, where an episode has ended.
    returns = [tag for tag in first if tag.startswith('collect/')]
    assert first[: len(returns)] == returns
    assert not any('agreement' in tag for tag in first)
    for name in first:
        assert events.Scalars(OVERVIEW + name)[-1].value == events.Scalars(name)[-1].value


def test_no_other_metric_of_these_families_is_measured_elsewhere(events: EventAccumulator) -> None:
    families = ('norm/', 'grad/', 'logits/', 'embeddings/', 'monitor/', 'parameters/', 'noreduce_')
    for name in events.Tags()['scalars']:
        if name.startswith(families):
            assert {point.step for point in events.Scalars(name)} <= set(MONITORED), name


def test_squared_group_norms_add_up_to_the_squared_norm_of_the_model(events: EventAccumulator) -> None:
    for family in ('norm', 'grad'):
        names = [
            name
            for name in events.Tags()['scalars']
            if name.startswith(f'{family}/') and name.endswith('/_total_norm') and name != f'{family}/model/_total_norm'
        ]
        for index in range(len(MONITORED)):
            total = sum(events.Scalars(name)[index].value ** 2 for name in names)
            # Event files hold float32.
            assert events.Scalars(f'{family}/model/_total_norm')[index].value ** 2 == pytest.approx(total, rel=1e-5)


def test_nothing_was_lost(events: EventAccumulator) -> None:
    assert not [name for name in events.Tags()['scalars'] if name.startswith('monitor/lost/')]
    assert [point.value for point in events.Scalars('monitor/missing_ranks')] == [0.0] * len(MONITORED)
