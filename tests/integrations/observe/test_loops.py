"""Loops that strangers would write: every figure is that of one learner step, and training is not changed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ding_normmon import INERT, Monitor
from tests.integrations.observe.loops import LOOPS, Net, Right

WITH_A_SCALER = ('scaler_finds_its_scale', 'fused_optimizer_with_a_scaler', 'gan_with_a_scaler')


@contextlib.contextmanager
def unmonitored(*_: Any, **__: Any) -> Iterator[Any]:
    yield SimpleNamespace(learner_step=INERT)


@pytest.mark.parametrize('frequency', [1, pytest.param(2, marks=pytest.mark.full)])
@pytest.mark.parametrize('name', LOOPS)
def test_every_record_is_of_one_learner_step(name: str, frequency: int) -> None:
    check_every_record(name, frequency)


@pytest.mark.parametrize(
    'name',
    ['scaler_finds_its_scale', *(pytest.param(name, marks=pytest.mark.full) for name in WITH_A_SCALER[1:])],
)
def test_a_scaler_is_found_where_nobody_names_it(name: str) -> None:
    check_every_record(name, 1, ('scaler',))


def check_every_record(name: str, frequency: int, left_out: tuple[str, ...] = ()) -> None:
    right, plain = Right(Net()), Right(Net())
    monitors: list[Monitor] = []

    def monitored(optimizer: Any, **options: Any) -> Monitor:
        config = {'monitor_norm_freq': frequency, 'on_finding': {'error': 'stop'}}
        given = {key: value for key, value in options.items() if key not in left_out}
        monitors.append(Monitor(right.model, config, optimizer=optimizer, **given))
        return monitors[0]

    LOOPS[name](right, monitored)
    LOOPS[name](plain, unmonitored)
    assert all(map(torch.equal, right.model.parameters(), plain.model.parameters()))
    records = monitors[0].take_records()
    # An optimizer that comes late, and above the other, may be a second one of the same step for all one can see.
    first = 2 if name == 'delayed_actor_above' else 0
    assert [record.iteration for record in records] == list(range(first, len(right.weights), frequency))
    unclear = 0
    for record in records:
        scalars, index = record.scalars, record.iteration
        assert scalars['norm/model/_total_norm'] == pytest.approx(right.weights[index], rel=1e-6)
        parts = {
            key.split('/')[1]: value
            for key, value in scalars.items()
            if key.startswith('grad/') and key != 'grad/model/_total_norm'
        }
        assert parts == pytest.approx(right.gradients[index], rel=1e-6)
        assert ('grad/model/_total_norm' in scalars) == (len(parts) == 2)
        if 'logits/value/mean' not in scalars:
            # To which step it belongs is seen for the first time when the second one ends.
            unclear += len(right.signals[index])
        elif right.signals[index]:
            assert scalars['logits/value/mean'] == pytest.approx(right.signals[index][0], rel=1e-6, abs=1e-9)
        assert not [finding for finding in record.findings if finding.severity == 'error']
        assert not [key for key in scalars if key.startswith('monitor/nonfinite')]
    assert monitors[0].lost_data.total['unclear_step'] == monitors[0].lost_data.total.total() >= unclear
    assert unclear <= (name in ('gan', 'td3'))
    skipped = sum(record.scalars.get('step/skipped', 0.0) for record in records)
    assert skipped == right.skipped + right.left_out


@pytest.mark.full
def test_hundreds_of_optimizers_of_one_class_are_seen() -> None:
    model = torch.nn.Sequential(*[torch.nn.Linear(2, 2) for _ in range(300)])
    optimizers = [torch.optim.SGD([parameter], 1e-3) for parameter in model.parameters()]
    with Monitor(model, {'monitor_norm_freq': 1}, optimizer=optimizers) as monitor:
        for _ in range(2):
            model.zero_grad()
            model(torch.ones(1, 2)).mean().backward()
            for optimizer in optimizers:
                optimizer.step()
    records = monitor.take_records()
    assert [record.iteration for record in records] == [0, 1]
    assert all('grad/model/_total_norm' in record.scalars for record in records)


def test_a_traceback_through_a_watched_step_can_be_looked_at() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    frames = []
    with Monitor(model, {'monitor_norm_freq': 1}, optimizer=optimizer):
        model(torch.ones(1, 4)).mean().backward()
        optimizer.param_groups[0]['lr'] = 'fast'
        with pytest.raises(TypeError) as raised:
            optimizer.step()
        traceback = raised.value.__traceback__
        while traceback is not None:
            frames.append(len(traceback.tb_frame.f_locals))
            traceback = traceback.tb_next
    assert len(frames) > 3
