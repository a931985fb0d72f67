"""Plain training loops, each with one error."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.silent.error import PLANTED, STEPS, SilentError
from ding_normmon import Monitor
from ding_normmon.core.record import Record

__all__ = ['PLAIN_LOOPS', 'Loop']


class Loop:
    """A loop as everybody writes it; an error overrides a part of it.

    Arguments:
        planted: iteration at which the error begins.
    """

    def __init__(self, planted: int = PLANTED) -> None:
        self.planted = planted
        torch.manual_seed(0)
        body = (nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1))
        self.model = nn.Sequential(*body, nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
        self.optimizer = self.make_optimizer(self.model.parameters())
        self.generator = torch.Generator().manual_seed(1)

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=1e-3)

    @property
    def broken(self) -> bool:
        return self.iteration >= self.planted

    def before(self) -> None:
        """Do what comes before a learner step."""

    def batch(self) -> Tensor:
        return torch.randn(32, 8, generator=self.generator)

    def zero(self) -> None:
        self.optimizer.zero_grad()

    def forward(self, x: Tensor) -> Tensor:
        return (self.model(x).float() - x[:, :4].float()).square().mean()

    def after(self) -> None:
        """Do what comes after a learner step."""

    def run(self, steps: int = STEPS) -> list[Record]:
        """Train, monitored in every step."""
        config = {'monitor_norm_freq': 1, 'budget': None, 'module_groups': {'body': '0', 'middle': '4', 'head': '6'}}
        with Monitor(self.model, config, optimizer=self.optimizer) as monitor:
            for self.iteration in range(steps):
                self.before()
                x = self.batch()
                self.zero()
                self.forward(x).backward()
                self.optimizer.step()
                self.after()
        return monitor.take_records()


class GradientsNeverZeroed(Loop):
    def zero(self) -> None:
        if not self.broken:
            super().zero()


class HeadMadeAnew(Loop):
    def before(self) -> None:
        if self.iteration == self.planted:
            self.model[6] = nn.Linear(32, 4)


class StateAssigned(Loop):
    def before(self) -> None:
        if self.iteration == self.planted:
            state = {name: value.clone() for name, value in self.model.state_dict().items()}
            self.model.load_state_dict(state, assign=True)


class OptimizerOfApart(Loop):
    """The optimizer was made while a part of the model was frozen, which is thawed later."""

    def __init__(self, planted: int = PLANTED) -> None:
        super().__init__(planted)
        self.model[0].requires_grad_(False)
        self.optimizer = self.make_optimizer([p for p in self.model.parameters() if p.requires_grad])

    def before(self) -> None:
        if self.iteration == self.planted:
            self.model[0].requires_grad_(True)


class FrozenStillTrained(Loop):
    """Frozen layers keep a gradient of zero, and momentum goes on moving them."""

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=1e-2, momentum=0.9, weight_decay=1e-4)

    def before(self) -> None:
        if self.iteration == self.planted:
            self.model[0].requires_grad_(False)

    def zero(self) -> None:
        self.optimizer.zero_grad(set_to_none=False)


class FrozenByMistake(Loop):
    def before(self) -> None:
        if self.iteration == self.planted:
            self.model[0].requires_grad_(False)


class WeightsWrittenBack(Loop):
    """A part of the model is read from a stale copy at the end of every step."""

    def before(self) -> None:
        self.copies = [p.detach().clone() for p in self.model[4].parameters()]

    def make_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        optimizer = super().make_optimizer(parameters)
        optimizer.register_step_post_hook(self.write_back)
        return optimizer

    @torch.no_grad()
    def write_back(self, *_: Any) -> None:
        if self.broken:
            for parameter, copy in zip(self.model[4].parameters(), self.copies, strict=True):
                parameter.copy_(copy)


class AutocastLost(Loop):
    def forward(self, x: Tensor) -> Tensor:
        lost = self.broken
        with contextlib.nullcontext() if lost else torch.autocast('cpu', dtype=torch.bfloat16):
            return super().forward(x)


class EvaluationNeverLeft(Loop):
    def after(self) -> None:
        self.model.eval()
        with torch.no_grad():
            self.model(torch.randn(16, 8, generator=self.generator))
        if not self.iteration >= self.planted - 1:
            self.model.train()


class SameBatchForEver(Loop):
    def batch(self) -> Tensor:
        if self.broken:
            self.generator.manual_seed(1)
        return super().batch()


class WorkersWithOneSeed(Loop):
    """Two workers draw the same random numbers, so every batch comes twice."""

    def batch(self) -> Tensor:
        if self.broken and self.iteration % 2:
            return self.last
        self.last = super().batch()
        return self.last


class TasksShareData(Loop):
    """Two tasks with a head each; one of them is given what the other is given."""

    def __init__(self, planted: int = PLANTED) -> None:
        super().__init__(planted)
        self.model = nn.ModuleDict({'body': nn.Linear(8, 32), 'heads': nn.ModuleList([nn.Linear(32, 4)] * 2)})
        self.optimizer = self.make_optimizer(self.model.parameters())

    def run(self, steps: int = STEPS) -> list[Record]:
        """Train, monitored in every step, and publish what each task is given."""
        config = {'monitor_norm_freq': 1, 'budget': None}
        with Monitor(self.model, config, optimizer=self.optimizer, num_tasks=2) as monitor:
            for self.iteration in range(steps):
                batches = [self.batch(), self.batch()]
                if self.broken:
                    batches[1] = batches[0].clone()
                self.zero()
                losses = []
                for task_id, x in enumerate(batches):
                    monitor.learner_step.publish('data/obs', x, task_id=task_id)
                    out = self.model['heads'][task_id](torch.relu(self.model['body'](x)))  # type: ignore[index]
                    losses.append((out - x[:, :4]).square().mean())
                torch.stack(losses).sum().backward()
                self.optimizer.step()
        return monitor.take_records()


class EverythingHeldIsFrozen(Loop):
    """The optimizer holds the head alone, all but normalisation is frozen, and the head is frozen too."""

    def __init__(self, planted: int = PLANTED) -> None:
        super().__init__(planted)
        self.optimizer = self.make_optimizer(self.model[6].parameters())
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name.startswith('1.'))


class OptimizerOfACopy(Loop):
    """A part of what the optimizer holds is of an earlier copy of the model."""

    def __init__(self, planted: int = PLANTED) -> None:
        super().__init__(planted)
        earlier = copy.deepcopy(self.model)
        self.optimizer = self.make_optimizer([*self.model[:5].parameters(), *earlier[5:].parameters()])


class InputsNotScaled(Loop):
    def batch(self) -> Tensor:
        pixels = torch.randint(0, 256, (32, 8), generator=self.generator).float()
        return pixels if self.broken else pixels / 255


class BatchCollapsed(Loop):
    """A processor puts the whole batch into one sample."""

    def batch(self) -> Tensor:
        x = super().batch()
        return x[:2] if self.broken else x


class SampleRepeated(Loop):
    """A sampler draws one index for the whole batch."""

    def batch(self) -> Tensor:
        x = super().batch()
        return x[:1].expand_as(x) if self.broken else x


class WeightsRestored(Loop):
    """After each step the weights of a checkpoint are loaded again."""

    def after(self) -> None:
        if self.iteration == self.planted:
            self.state = copy.deepcopy(self.model.state_dict())
        if self.broken:
            self.model.load_state_dict(self.state)


class Scheduled(Loop):
    """The learning rate follows half a cosine."""

    def __init__(self, planted: int = PLANTED) -> None:
        super().__init__(planted)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 200)

    def after(self) -> None:
        self.scheduler.step()


class SchedulerForgotten(Scheduled):
    """An earlier state is loaded of the optimizer, and not of its scheduler."""

    def __init__(self, planted: int = PLANTED) -> None:
        super().__init__(planted)
        self.state = copy.deepcopy(self.optimizer.state_dict())

    def before(self) -> None:
        if self.iteration == self.planted:
            self.optimizer.load_state_dict(self.state)


class SchedulerStopped(Scheduled):
    def after(self) -> None:
        if not self.broken:
            super().after()


class SchedulerStepsTwice(Scheduled):
    def after(self) -> None:
        super().after()
        if self.broken:
            super().after()


class InputsNotFinite(Loop):
    def batch(self) -> Tensor:
        x = super().batch()
        if self.broken:
            x[3, 2] = torch.nan
        return x


def _plain(kind: type[Loop], **arguments: Any) -> Callable[[], list[Record]]:
    return partial(lambda: kind(**arguments).run())


PLAIN_LOOPS: tuple[SilentError, ...] = (
    SilentError(
        'zero_grad is never called',
        'stackoverflow-60335387',
        frozenset({'gradient_leftover'}),
        exact=False,
        run=_plain(GradientsNeverZeroed, planted=0),
        planted=1,
    ),
    SilentError(
        'zero_grad is called no more', '', frozenset({'gradient_leftover'}), False, _plain(GradientsNeverZeroed)
    ),
    SilentError(
        'head made anew after the optimizer',
        '',
        frozenset({'unheld_parameter', 'orphaned_parameter'}),
        True,
        _plain(HeadMadeAnew),
    ),
    SilentError(
        'load_state_dict(assign=True) after the optimizer',
        '',
        frozenset({'unheld_parameter', 'orphaned_parameter'}),
        True,
        _plain(StateAssigned),
    ),
    SilentError(
        'thawed layers that no optimizer holds',
        '',
        frozenset({'unheld_parameter'}),
        True,
        _plain(OptimizerOfApart),
    ),
    SilentError(
        'old weights are loaded after each step',
        '',
        frozenset({'parameter_stands_still'}),
        False,
        _plain(WeightsRestored),
        # One step has to be taken, and one to begin where it did.
        PLANTED + 2,
    ),
    SilentError(
        'a batch that is one sample again and again', '', frozenset({'batch_repeats'}), False, _plain(SampleRepeated)
    ),
    SilentError('layers frozen by mistake', '', frozenset({'no_gradient'}), False, _plain(FrozenByMistake)),
    SilentError(
        'frozen layers that are trained',
        'mmpretrain-702',
        frozenset({'frozen_parameter_moves'}),
        False,
        _plain(FrozenStillTrained),
    ),
    SilentError(
        'steps that change nothing (stale code or copies)',
        'pytorch-115607',
        frozenset({'parameter_stands_still'}),
        False,
        _plain(WeightsWrittenBack),
    ),
    SilentError('autocast is lost', 'lightning-thunder-725', frozenset({'mode_changes'}), False, _plain(AutocastLost)),
    SilentError(
        'dropout and normalisation in the wrong mode',
        'transformers-33844',
        frozenset({'mode_changes'}),
        False,
        _plain(EvaluationNeverLeft),
    ),
    SilentError(
        'the same random numbers in every batch',
        'stackoverflow-67180955',
        frozenset({'batch_repeats'}),
        False,
        _plain(SameBatchForEver),
        # The first that is the same as the one before.
        planted=PLANTED + 1,
    ),
    SilentError(
        'workers of a loader with the same seed',
        'stackoverflow-67180955',
        frozenset({'batch_repeats'}),
        False,
        _plain(WorkersWithOneSeed),
        planted=PLANTED + 1,
    ),
    SilentError(
        "a task that is given another one's data",
        '',
        frozenset({'tasks_share_data'}),
        False,
        _plain(TasksShareData),
    ),
    SilentError(
        'everything that the optimizer holds is frozen',
        'pytorch-forum-84911',
        frozenset({'unheld_parameter'}),
        True,
        _plain(EverythingHeldIsFrozen),
        planted=0,
    ),
    SilentError(
        'an optimizer of a copy of the model',
        'accelerate-2665',
        frozenset({'unheld_parameter'}),
        True,
        _plain(OptimizerOfACopy),
        planted=0,
    ),
    SilentError('inputs that are no longer scaled', '', frozenset({'input_range'}), False, _plain(InputsNotScaled)),
    SilentError(
        'a batch put together wrongly',
        'transformers-34204',
        frozenset({'input_changes'}),
        False,
        _plain(BatchCollapsed),
    ),
    SilentError(
        "an optimizer's state is loaded without its scheduler's",
        '',
        frozenset({'rate_off_schedule'}),
        False,
        _plain(SchedulerForgotten),
    ),
    SilentError(
        'a scheduler that steps no more',
        '',
        frozenset({'scheduler_steps_change'}),
        False,
        _plain(SchedulerStopped),
        # What comes after the last step before it is seen in the next one.
        planted=PLANTED + 1,
    ),
    SilentError(
        'a scheduler that steps twice',
        '',
        frozenset({'scheduler_steps_change'}),
        False,
        _plain(SchedulerStepsTwice),
        planted=PLANTED + 1,
    ),
    SilentError('a NaN in the batch', '', frozenset({'non_finite'}), True, _plain(InputsNotFinite)),
)
"""Errors of plain loops."""
