"""Gradients that are corrected between the losses and the step: figures before and after, and training the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from easydict import EasyDict
from torch import Tensor
from torchjd.aggregation import IMTLG, MGDA, Aggregator, Mean, PCGrad
from torchjd.autojac import backward, jac_to_grad

from ding_normmon import NormMonitor, Record
from ding_normmon.unizero import UniZeroMultitaskPolicy
from tests.asserts import assert_bitwise_equal
from tests.sampling import sampled
from tests.unizero.builders import random_batch, tiny_policy

TASKS = 3


class Corrected(UniZeroMultitaskPolicy):
    """Aggregates the tasks' gradients of shared parameters with TorchJD."""

    aggregator: Aggregator
    corrects_gradients = True

    def _backward(self, losses: Mapping[int, Tensor]) -> None:
        shared = [parameter for parameter in self._shared_parameters if parameter.requires_grad]
        own = [parameter for parameter in self._own_parameters if parameter.requires_grad]
        stacked = torch.stack(list(losses.values()))
        for parameter, gradient in zip(
            own, torch.autograd.grad(stacked.sum(), own, retain_graph=True, allow_unused=True), strict=True
        ):
            parameter.grad = gradient
        used = torch.autograd.grad(stacked.sum(), shared, retain_graph=True, allow_unused=True)
        inputs = [parameter for parameter, gradient in zip(shared, used, strict=True) if gradient is not None]
        backward(stacked, inputs=inputs, parallel_chunk_size=1)
        jac_to_grad(inputs, self.aggregator)


class Moving(Corrected):
    """Follows the tasks' gradients with a moving average, as MoCo does: not what any sum of this step's gives."""

    def _backward(self, losses: Mapping[int, Tensor]) -> None:
        super()._backward(losses)
        for parameter in self._shared_parameters:
            if parameter.grad is not None:
                earlier = self.averages.get(id(parameter))
                parameter.grad = parameter.grad if earlier is None else 0.1 * parameter.grad + 0.9 * earlier
                self.averages[id(parameter)] = parameter.grad.clone()


def train(kind: type, aggregator: Callable[[], Aggregator], watch: bool) -> tuple[dict[str, Any], list[Record]]:
    policy = tiny_policy(TASKS)
    policy.__class__ = kind
    policy.aggregator, policy.averages = aggregator(), {}
    torch.manual_seed(1)
    np.random.seed(1)
    monitor = None
    if watch:
        config = EasyDict(monitor_norm_freq=1, preset='multitask', conflict_exact='rank', budget=None)
        monitor = NormMonitor(config, policy, destinations=[])
    records: list[Record] = []
    for iteration in range(3):
        if monitor is not None:
            context = SimpleNamespace(train_iter=iteration)
            monitor(context)
            records += context.monitor_records
        data = [random_batch(policy, task_id, seed=10 * iteration + task_id) for task_id in range(TASKS)]
        policy._forward_learn(data)
    if monitor is not None:
        monitor.close()
        records += monitor.monitor.take_records()
    return policy._state_dict_learn(), records


@pytest.mark.parametrize(
    ('kind', 'aggregator'),
    sampled([(Corrected, PCGrad), (Corrected, Mean), (Corrected, MGDA), (Corrected, IMTLG), (Moving, Mean)], 4),
)
def test_a_corrected_gradient_is_measured_and_conflict_stays(kind: type, aggregator: Callable[[], Aggregator]) -> None:
    plain, _ = train(kind, aggregator, watch=False)
    watched, records = train(kind, aggregator, watch=True)
    assert_bitwise_equal(plain, watched)
    assert [record.iteration for record in records] == [0, 1, 2]
    for record in records:
        figures = record.scalars
        assert {'conflict/encoder/mean_cosine', 'conflict/transformer/rate'} <= set(figures)
        assert 'monitor/lost/metric_gradient_conflict' not in figures
        # The average of three gradients is a third of their sum, and a projection is no sum at all.
        before, after = figures['conflict/transformer/sum_norm'], figures['grad/transformer/_total_norm']
        if (kind, aggregator) == (Corrected, Mean):
            assert after == pytest.approx(before / TASKS, rel=1e-4)
        else:
            assert abs(after / before - 1) > 1e-3


@pytest.mark.full
def test_the_sum_before_it_is_that_of_an_uncorrected_policy() -> None:
    _, corrected = train(Corrected, PCGrad, watch=True)
    _, plain = train(UniZeroMultitaskPolicy, PCGrad, watch=True)
    for group in ('encoder', 'transformer'):
        expected = plain[0].scalars[f'grad/{group}/_total_norm']
        assert corrected[0].scalars[f'conflict/{group}/sum_norm'] == pytest.approx(expected, rel=1e-4)


def test_a_correction_that_nobody_declared_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """What is left of conflict after it would be that of other gradients than those that were used."""

    class Undeclared(Corrected):
        corrects_gradients = False

    _, records = train(Undeclared, MGDA, watch=True)
    assert 'If the gradient is corrected (PCGrad, MoCo)' in caplog.text
    assert not [name for name in records[-1].scalars if name.startswith('conflict/')]
