"""Interactions of tasks on the real policy, compared with full gradients and copied weights in float64."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from easydict import EasyDict
from torch import Tensor, nn

from ding_normmon import Monitor, NormMonitor, Record
from ding_normmon.core.step import INERT, LearnerStep
from ding_normmon.metrics import (
    GradientConflict,
    GradientNorms,
    LossContributions,
    Metric,
    Updates,
    default_metrics,
)
from tests.asserts import assert_bitwise_equal
from tests.sampling import sampled
from tests.unizero.builders import random_batch, tiny_policy


def batches(policy: Any, seed: int) -> list[Any]:
    return [random_batch(policy, task, seed, batch_size=3 + task) for task in policy.task_ids]


def spied(policy: Any) -> tuple[dict[int, dict[str, Tensor]], dict[str, list[nn.Parameter]]]:
    """T full gradients of a learner step of the policy, in float64, by task and group."""
    world_model = policy._learn_model.world_model
    embeddings = [world_model.task_embedding, world_model.act_embedding_table, world_model.pos_emb]
    groups = {
        'encoder': list(world_model.tokenizer.encoder.parameters()),
        'transformer': list(world_model.transformer.parameters()),
        'transformer_block0': list(world_model.transformer.blocks[0].parameters()),
        'embeddings': [parameter for module in embeddings for parameter in module.parameters()],
    }
    found: dict[int, dict[str, Tensor]] = {}

    class Spy:
        def on_publish(self, *args: Any) -> None: ...
        def on_publish_loss(self, *args: Any) -> None: ...
        def on_clip(self, *args: Any) -> None: ...

        def on_hook_point(self, hook_point: str, step: LearnerStep) -> None:
            for task, loss in (step.losses or {}).items() if hook_point == 'forward_end' else ():
                found[task] = {}
                for name, parameters in groups.items():
                    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
                    flat = [
                        torch.zeros_like(p).reshape(-1) if g is None else g.reshape(-1)
                        for g, p in zip(gradients, parameters, strict=True)
                    ]
                    found[task][name] = torch.cat(flat).double()

    policy.learner_step = LearnerStep(0, Spy())
    policy._forward_learn(batches(policy, 0))
    policy.learner_step = INERT
    return found, groups


@pytest.mark.parametrize(
    ('size', 'exact'), sampled([(64, 'never'), (512, 'never'), (64, 'rank'), (1 << 20, 'never')])
)
def test_the_gram_matrix_is_that_of_full_gradients_within_the_stated_error(size: int, exact: str) -> None:
    tasks = 4
    gradients, _ = spied(tiny_policy(tasks))
    policy = tiny_policy(tasks)
    metric = GradientConflict()
    config = {
        'monitor_norm_freq': 1,
        'sketch_size': size,
        'conflict_exact': exact,
        'conflict_blocks': True,
    }
    monitor = Monitor(policy._learn_model, config, num_tasks=tasks, task_ids=policy.task_ids, metrics=[metric])
    with monitor.step(0) as step:
        policy.learner_step = step
        policy._forward_learn(batches(policy, 0))
    monitor.close()
    (record,) = monitor.take_records()
    errors = []
    for name in ('encoder', 'transformer', 'transformer_block0', 'embeddings'):
        full = torch.stack([gradients[task][name] for task in range(tasks)]).numpy()
        norms = np.linalg.norm(full, axis=1)
        expected = full @ full.T / np.outer(norms, norms)
        cosine, stated = (record.matrices[f'conflict/{name}/{what}'].values for what in ('cosine', 'standard_error'))
        assert np.allclose(np.diag(cosine), 1, atol=0)
        pairs = np.triu_indices(tasks, 1)
        if exact == 'rank' or full.shape[1] <= size:
            assert np.abs(cosine - expected).max() < 1e-6
        else:
            errors += list((cosine - expected)[pairs] / stated[pairs])
        for task in range(tasks):
            share = record.scalars[f'conflict/{name}_task{task}/share']
            assert share == pytest.approx(norms[task] / norms.sum(), rel=1e-6)
            others = [expected[task, other] for other in range(tasks) if other != task]
            mean = record.scalars[f'conflict/{name}_task{task}/mean_cosine']
            assert mean == pytest.approx(np.mean(others), abs=1e-6 if not errors else 4 * stated.max())
    if errors:
        assert np.sqrt(np.mean(np.square(errors))) < 2
        assert np.abs(errors).max() < 4.5


def weights_after(steps: int, metrics: list[Metric] | None, **config: Any) -> dict[str, Any]:
    policy = tiny_policy(3)
    monitor = None
    if metrics is not None:
        monitor = Monitor(
            policy._learn_model,
            {'monitor_norm_freq': 1, **config},
            num_tasks=3,
            metrics=[*default_metrics()[:-1], *metrics],
        )
    before = torch.get_rng_state()
    for iteration in range(steps):
        if monitor is None:
            policy._forward_learn(batches(policy, iteration))
            continue
        with monitor.step(iteration) as step:
            policy.learner_step = step
            policy._forward_learn(batches(policy, iteration))
    if monitor is not None:
        monitor.close()
        assert not monitor.lost_data.total
        assert len(monitor.take_records()) == steps
    assert torch.equal(before, torch.get_rng_state())
    return {
        'model': policy._learn_model.state_dict(),
        'target': policy._target_model.state_dict(),
        'optimizer': policy._optimizer_world_model.state_dict(),
    }


@pytest.mark.parametrize(
    'config', sampled([{'conflict_exact': 'rank', 'sketch_size': 64, 'conflict_blocks': True}, {}])
)
def test_weights_are_bitwise_the_same_after_10_steps(config: dict[str, Any]) -> None:
    assert_bitwise_equal(weights_after(10, None), weights_after(10, [GradientConflict()], **config))


def test_it_has_a_frequency_of_its_own_and_repeats_nothing() -> None:
    policy = tiny_policy(2)
    config = EasyDict(monitor_norm_freq=1, conflict_freq=3, preset='multitask', plasticity_freq=None, budget=None)
    middleware = NormMonitor(config, policy, destinations=[])
    context = SimpleNamespace(train_iter=0, monitor_records=[])
    records: list[Record] = []
    for context.train_iter in range(7):
        middleware(context)
        records += context.monitor_records
        policy._forward_learn(batches(policy, context.train_iter))
    middleware.close()
    records = [r for r in [*records, *middleware.monitor.take_records()] if 'conflict/encoder/rate' in r.scalars]
    assert [record.iteration for record in records] == [0, 3, 6]


# -- updates -----------------------------------------------------------------------------------------------------------


def one_step(policy: Any, **config: Any) -> tuple[Record, Monitor]:
    monitor = Monitor(
        policy._learn_model,
        {'monitor_norm_freq': 1, **config},
        num_tasks=policy.num_tasks,
        metrics=[GradientNorms(), GradientConflict(), Updates()],
    )
    with monitor.step(0) as step:
        policy.learner_step = step
        policy._forward_learn(batches(policy, 0))
    monitor.close()
    assert not monitor.lost_data.total
    (record,) = monitor.take_records()
    return record, monitor


@pytest.mark.parametrize('budget', sampled([8 * 2**20, 1], 2))
@pytest.mark.parametrize('size', sampled([4096, 256]))
def test_relative_size_and_cosines_are_those_of_copied_weights(budget: int, size: int) -> None:
    gradients, _ = spied(tiny_policy(3))
    policy = tiny_policy(3)
    world_model = policy._learn_model.world_model
    groups = {
        'encoder': list(world_model.tokenizer.encoder.parameters()),
        'transformer': list(world_model.transformer.parameters()),
        'head_value_task2': list(world_model.head_value[2].parameters()),
    }
    before = {name: torch.cat([p.detach().double().reshape(-1) for p in group]) for name, group in groups.items()}
    record, _ = one_step(policy, memory_budget=budget, sketch_size=size)
    for name, group in groups.items():
        change = torch.cat([p.detach().double().reshape(-1) for p in group]) - before[name]
        expected = float(change.norm() / before[name].norm())
        sketched = budget == 1 and len(change) > size
        rel = 4 * (2 * size) ** -0.5 if sketched else 1e-6
        assert record.scalars[f'update/{name}/relative'] == pytest.approx(expected, rel=rel)
        for task in range(3) if not name.startswith('head') else ():
            gradient = gradients[task][name]
            cosine = -float(gradient @ change / gradient.norm() / change.norm())
            error = 1e-6 if len(change) <= size else 4 * size**-0.5
            assert record.scalars[f'update/{name}_task{task}/cosine'] == pytest.approx(cosine, abs=error)


# -- the terms of the losses -------------------------------------------------------------------------------------------


class TermSpy:
    """Differentiates every term of every task on the encoder."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self.parameters = parameters
        self.terms: dict[int, dict[str, torch.Tensor]] = {}
        self.totals: dict[int, torch.Tensor] = {}

    def on_publish(self, *args: object) -> None: ...
    def on_publish_loss(self, *args: object) -> None: ...
    def on_clip(self, *args: object) -> None: ...

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        found = torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        return torch.cat([gradient.double().reshape(-1) for gradient in found])

    def on_hook_point(self, hook_point: str, step: LearnerStep) -> None:
        if hook_point == 'forward_end':
            assert step.losses is not None
            assert step.parts is not None
            for task, parts in step.parts.items():
                self.terms[task] = {name: self.gradient(part) for name, part in parts.items()}
                self.totals[task] = self.gradient(step.losses[task])


@pytest.mark.parametrize('size', sampled([64, 1 << 20]))
def test_norms_shares_and_cosines_are_those_of_full_gradients(size: int) -> None:
    twin = tiny_policy(2, task_loss_weight=[1.0, 5.0])
    spy = TermSpy(list(twin._learn_model.world_model.tokenizer.encoder.parameters()))
    twin.learner_step = LearnerStep(0, spy)
    twin._forward_learn(batches(twin, 0))
    twin.learner_step = INERT
    policy = tiny_policy(2, task_loss_weight=[1.0, 5.0])
    config = {'monitor_norm_freq': 1, 'conflict_by_loss': True, 'sketch_size': size}
    monitor = Monitor(policy._learn_model, config, num_tasks=2, metrics=[LossContributions()])
    with monitor.step(0) as step:
        policy.learner_step = step
        policy._forward_learn(batches(policy, 0))
    monitor.close()
    assert not monitor.lost_data.total
    scalars = monitor.take_records()[0].scalars
    for task, terms in spy.terms.items():
        assert set(terms) == {'observation', 'reward', 'policy', 'value'}
        total = torch.stack(list(terms.values())).sum(0)
        # The terms are those of the loss: their gradients add up to its own.
        assert torch.allclose(total, spy.totals[task], rtol=1e-4, atol=1e-7)
        norms = {name: float(gradient.norm()) for name, gradient in terms.items()}
        for name, gradient in terms.items():
            prefix = f'conflict/encoder_task{task}/{name}'
            assert scalars[f'{prefix}/norm'] == pytest.approx(norms[name], rel=1e-6)
            assert scalars[f'{prefix}/share'] == pytest.approx(norms[name] / sum(norms.values()), rel=1e-6)
            cosine = float(gradient @ total / gradient.norm() / total.norm())
            error = 1e-6 if len(gradient) <= size else 4 * size**-0.5
            assert scalars[f'{prefix}/cosine'] == pytest.approx(cosine, abs=error)
