"""What a learner step really does, seen in another way than the monitor sees it, and computed in float64."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import optimizer as optimizers

from tests.models import ELSEWHERE


@dataclass
class Step:
    """One learner step: weights before it, gradients when they were final, first output of each head with a graph.

    Of a target network also the weights before it, in the order of the model's.
    """

    weights: dict[int, Tensor]
    target: list[Tensor] | None = None
    gradients: dict[int, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    stepped: list[int] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)


class Recorder:
    """Records learner steps through torch's global optimizer hooks and copies of everything.

    Arguments:
        model: the model.
        heads: signal name, path of the module, key of the output.
        several: every optimizer step ends a learner step.
        target: the target network, where there is one.
    """

    def __init__(
        self,
        model: nn.Module,
        heads: Mapping[str, tuple[str, str]],
        several: bool,
        target: nn.Module | None = None,
    ) -> None:
        self.model = model
        self.target = target
        self.heads = heads
        self.several = several
        self.steps: list[Step] = []

    def begin(self) -> None:
        """Begin a learner step."""
        target = None if self.target is None else [p.detach().double().clone() for p in self.target.parameters()]
        self.steps.append(Step({id(p): p.detach().double().clone() for p in self.model.parameters()}, target))

    def _copy(self, parameters: Any) -> None:
        for parameter in parameters:
            if parameter.grad is not None:
                self.steps[-1].gradients.setdefault(id(parameter), parameter.grad.detach().double().clone())

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record until the block ends."""
        clip = torch.nn.utils.clip_grad_norm_

        def before(optimizer: Any, *_: Any) -> None:
            self._copy(p for group in optimizer.param_groups for p in group['params'])

        def after(optimizer: Any, *_: Any) -> None:
            own = {id(p) for p in self.model.parameters()}
            held = {id(p) for group in optimizer.param_groups for p in group['params']}
            # DI-engine's optimizers run the hooks twice: once for the step inside the step.
            if self.several and own & held and self.steps[-1].gradients:
                self.begin()

        def clipped(parameters: Any, *args: Any, **kwargs: Any) -> Any:
            parameters = list(parameters)
            self._copy(parameters)
            return clip(parameters, *args, **kwargs)

        def output(name: str, key: str) -> Any:
            def hook(module: nn.Module, inputs: Any, result: Any) -> None:
                if result[key].requires_grad:
                    self.steps[-1].outputs.setdefault(name, result[key].detach().double().clone())

            return hook

        with contextlib.ExitStack() as undo:
            undo.callback(optimizers.register_optimizer_step_pre_hook(before).remove)
            undo.callback(optimizers.register_optimizer_step_post_hook(after).remove)
            torch.nn.utils.clip_grad_norm_ = clipped
            undo.callback(setattr, torch.nn.utils, 'clip_grad_norm_', clip)
            for name, (path, key) in self.heads.items():
                undo.callback(self.model.get_submodule(path).register_forward_hook(output(name, key)).remove)
            yield
        if self.several:
            self.steps.pop()


def norm(tensors: list[Tensor]) -> float:
    return float(np.sqrt(sum(float((tensor**2).sum()) for tensor in tensors)))


def assert_step(scalars: Mapping[str, float], step: Step, model: nn.Module, groups: Mapping[str, str]) -> None:
    """Compare every norm and statistic of one record with float64, and see that nothing else is there."""
    known = {'norm/model/_total_norm', 'grad/model/_total_norm', 'parameters/model/trainable'}
    weights: list[Tensor] = []
    gradients: list[Tensor] = []
    for name, path in groups.items():
        parameters = list(model.get_submodule(path).parameters())
        weights += [step.weights[id(p)] for p in parameters]
        assert scalars[f'norm/{name}/_total_norm'] == pytest.approx(norm(weights[-len(parameters) :]), rel=1e-6)
        known.add(f'norm/{name}/_total_norm')
        found = [step.gradients[id(p)] for p in parameters if id(p) in step.gradients]
        gradients += found
        if found:
            assert scalars[f'grad/{name}/_total_norm'] == pytest.approx(norm(found), rel=1e-6), name
            known.add(f'grad/{name}/_total_norm')
        else:
            assert f'grad/{name}/_total_norm' not in scalars
    assert scalars['norm/model/_total_norm'] == pytest.approx(norm(weights), rel=1e-6)
    if len(gradients) == len(weights):
        assert scalars['grad/model/_total_norm'] == pytest.approx(norm(gradients), rel=1e-6)
    else:
        assert 'grad/model/_total_norm' not in scalars
    if step.target is not None:
        online = [step.weights[id(p)] for p in model.parameters()]
        away = norm([mine - other for mine, other in zip(online, step.target, strict=True)])
        assert scalars['target/distance'] == pytest.approx(away / norm(online), rel=1e-6, abs=1e-12)
        # The fingerprint has no meaning of its own: the tests of bit sums compute it anew. How far the target went is
        # compared where the step before is at hand.
        known |= {'target/distance', 'target/followed', 'monitor/fingerprint/target'}
    for name, output in step.outputs.items():
        expected = {
            'mean': output.mean(),
            'std': output.std(),
            'max': output.max(),
            'min': output.min(),
            'abs_max': output.abs().max(),
        }
        for statistic, value in expected.items():
            assert scalars[f'{name}/{statistic}'] == pytest.approx(float(value), rel=1e-6, abs=1e-9), name
            known.add(f'{name}/{statistic}')
    elsewhere = (*ELSEWHERE, 'monitor/late/', 'monitor/absent/', 'clip/', 'data/')
    assert {name for name in scalars if not name.startswith(elsewhere)} - known == set()
