"""Training loops as people write them; each notes what is right, in float64, at the moment when it is."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ding_normmon import Monitor

__all__ = ['LOOPS', 'Loop', 'Right', 'norm']


def norm(tensors: Iterable[Tensor | None]) -> float:
    """Return the L2 norm in float64."""
    return sum(float(t.detach().double().square().sum()) for t in tensors if t is not None) ** 0.5


class Net(nn.Module):
    """Two groups, an encoder and a head."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = nn.Linear(4, 6)
        self.head_value = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head_value(torch.tanh(self.encoder(x)))


@dataclass
class Right:
    """What is right, by learner step: the weights' norm before it, and each part's gradient before clipping.

    ``left_out`` counts optimizer steps that were left out beside others of the same step; ``signals`` are the means of
    what the loop publishes in the step.
    """

    model: nn.Module
    weights: list[float] = field(default_factory=list)
    gradients: list[dict[str, float]] = field(default_factory=list)
    signals: list[list[float]] = field(default_factory=list)
    skipped: int = 0
    left_out: int = 0

    def begins(self) -> None:
        """A learner step begins."""
        self.weights.append(norm(self.model.parameters()))
        self.gradients.append({})
        self.signals.append([])

    def gradient(self, *parts: str) -> None:
        """The gradients of these parts are those of the step."""
        for part in parts:
            self.gradients[-1][part] = norm(p.grad for p in self.model.get_submodule(part).parameters())

    def is_skipped(self) -> None:
        """The step that has begun moves nothing."""
        self.skipped += 1
        for kept in (self.weights, self.gradients, self.signals):
            kept.pop()

    def publish(self, monitor: Monitor, value: Tensor) -> None:
        """Publish a signal."""
        self.signals[-1].append(float(value.detach().double().mean()))
        monitor.learner_step.publish('logits/value', value)


Loop = Callable[[Right, Callable[..., Any]], None]


def data(index: int, rows: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(index)
    return torch.randn(rows, 4, generator=generator)


BOTH = ('encoder', 'head_value')


def gan(right: Right, monitored: Callable[..., Any]) -> None:
    """The discriminator (encoder) steps always, the generator (head) every third time, below it."""
    model = right.model
    d, g = (torch.optim.Adam(model.get_submodule(part).parameters(), 1e-2) for part in BOTH)
    with monitored([d, g]) as monitor:
        for i in range(9):
            right.begins()
            out = model(data(i))
            right.publish(monitor, out)
            d.zero_grad()
            out.square().mean().backward()
            right.gradient('encoder')
            nn.utils.clip_grad_norm_(model.encoder.parameters(), 0.01)
            d.step()
            if i % 3 == 2:
                g.zero_grad()
                (-model(data(100 + i)).mean()).backward()
                right.gradient('head_value')
                nn.utils.clip_grad_norm_(model.head_value.parameters(), 0.01)
                g.step()


def generator_first(right: Right, monitored: Callable[..., Any]) -> None:
    """The part that rests now and then steps first, and is listed last."""
    model = right.model
    d, g = (torch.optim.SGD(model.get_submodule(part).parameters(), 1e-2) for part in BOTH)
    with monitored({'d': d, 'g': g}):
        for i in range(8):
            right.begins()
            if i % 2 == 0:
                model.zero_grad()
                model(data(i)).mean().backward()
                right.gradient('head_value')
                g.step()
            model.zero_grad()
            model(data(50 + i)).square().mean().backward()
            right.gradient('encoder')
            d.step()


def discriminator_in_an_inner_loop(right: Right, monitored: Callable[..., Any]) -> None:
    """Five steps of the critic, one of the generator: six updates, of which the last two are one learner step."""
    model = right.model
    d, g = (torch.optim.RMSprop(model.get_submodule(part).parameters(), 1e-3) for part in BOTH)
    with monitored((g, d)):
        for i in range(3):
            for j in range(5):
                right.begins()
                d.zero_grad()
                model(data(10 * i + j)).square().mean().backward()
                right.gradient('encoder')
                d.step()
            g.zero_grad()
            model(data(10 * i + 9)).mean().backward()
            right.gradient('head_value')
            g.step()


def accumulation_without_the_last(right: Right, monitored: Callable[..., Any]) -> None:
    """Three micro-batches a step; an epoch has eight, and its last two never move anything."""
    model = right.model
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    with monitored(optimizer):
        for epoch in range(3):
            optimizer.zero_grad()
            for j in range(8):
                if j % 3 == 0 and j < 6:
                    right.begins()
                (model(data(10 * epoch + j)).square().mean() / 3).backward()
                if j % 3 == 2:
                    right.gradient(*BOTH)
                    nn.utils.clip_grad_norm_(model.parameters(), 0.05)
                    optimizer.step()
                    optimizer.zero_grad()


def lbfgs(right: Right, monitored: Callable[..., Any]) -> None:
    """The gradient of the first evaluation is that of the step."""
    model = right.model
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    with monitored(optimizer):
        for i in range(4):
            right.begins()
            first = [True]

            def closure(i: int = i, first: list[bool] = first) -> Tensor:
                optimizer.zero_grad()
                loss = model(data(i)).square().mean()
                loss.backward()
                if first.pop() if first else False:
                    right.gradient(*BOTH)
                return loss

            optimizer.step(closure)


def swa_and_ema(right: Right, monitored: Callable[..., Any]) -> None:
    """Averages of the weights are made beside the training, and nobody trains them."""
    model = right.model
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    averaged, ema = AveragedModel(model), copy.deepcopy(model)
    with monitored(optimizer):
        for i in range(6):
            right.begins()
            optimizer.zero_grad()
            model(data(i)).square().mean().backward()
            right.gradient(*BOTH)
            optimizer.step()
            schedule.step()
            averaged.update_parameters(model)
            with torch.no_grad():
                for slow, fast in zip(ema.parameters(), model.parameters(), strict=True):
                    slow.lerp_(fast, 0.1)


def ppo(right: Right, monitored: Callable[..., Any]) -> None:
    """Epochs of shuffled minibatches, and an epoch that stops early."""
    model = right.model
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, eps=1e-5)
    with monitored(optimizer) as monitor:
        for update in range(3):
            batch = data(update, 12)
            for _ in range(2):
                for part in torch.randperm(12, generator=torch.Generator().manual_seed(update)).split(4):
                    right.begins()
                    out = model(batch[part])
                    right.publish(monitor, out)
                    optimizer.zero_grad()
                    out.square().mean().backward()
                    right.gradient(*BOTH)
                    nn.utils.clip_grad_norm_(model.parameters(), 0.02)
                    optimizer.step()
                if update == 1:
                    break


def dqn(right: Right, monitored: Callable[..., Any]) -> None:
    """Acts in between, learns every second step after a start, and has a target network."""
    model, target = right.model, copy.deepcopy(right.model)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    with monitored(optimizer) as monitor:
        for i in range(12):
            with torch.no_grad():
                model(data(i, 1))
            if i > 3 and i % 2 == 0:
                right.begins()
                with torch.no_grad():
                    goal = target(data(i)).detach()
                value = model(data(i))
                right.publish(monitor, value)
                loss = nn.functional.smooth_l1_loss(value, 0.9 * goal + 1)
                optimizer.zero_grad()
                loss.backward()
                right.gradient(*BOTH)
                optimizer.step()
            if i % 4 == 0:
                target.load_state_dict(model.state_dict())


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimisation as it is usually written: climbs, then steps from where it was."""

    def __init__(self, parameters: Any, base: type[torch.optim.Optimizer], rho: float = 0.05, **options: Any) -> None:
        super().__init__(parameters, dict(rho=rho, **options))
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        length = norm(p.grad for group in self.param_groups for p in group['params'])
        for group in self.param_groups:
            for p in group['params']:
                self.state[p]['old'] = p.data.clone()
                p.add_(p.grad, alpha=group['rho'] / length)
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for p in group['params']:
                p.data = self.state[p]['old']
        self.base_optimizer.step()
        self.zero_grad()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        closure = torch.enable_grad()(closure)
        self.first_step()
        closure()
        self.second_step()


def sam(right: Right, monitored: Callable[..., Any]) -> None:
    """The weights move by the second gradient."""
    model = right.model
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
    with monitored(optimizer):
        for i in range(5):
            right.begins()
            model(data(i)).square().mean().backward()
            optimizer.first_step()
            model(data(i)).square().mean().backward()
            right.gradient(*BOTH)
            optimizer.second_step()


def sam_by_closure(right: Right, monitored: Callable[..., Any]) -> None:
    """The same in one call."""
    model = right.model
    optimizer = SAM(model.parameters(), torch.optim.Adam, lr=0.1)
    with monitored(optimizer):
        for i in range(5):
            right.begins()

            def closure(i: int = i) -> Tensor:
                loss = model(data(i)).square().mean()
                loss.backward()
                right.gradient(*BOTH)
                return loss

            closure()
            optimizer.step(closure)


def td3(right: Right, monitored: Callable[..., Any]) -> None:
    """The actor is delayed; both updates are functions, and the actor is listed first."""
    model = right.model
    critic, actor = (torch.optim.Adam(model.get_submodule(part).parameters(), 1e-2) for part in BOTH)

    def update_critic(batch: Tensor, monitor: Monitor) -> None:
        value = model(batch)
        right.publish(monitor, value)
        critic.zero_grad()
        value.square().mean().backward()
        right.gradient('encoder')
        critic.step()

    def update_actor(batch: Tensor) -> None:
        actor.zero_grad()
        (-model(batch).mean()).backward()
        right.gradient('head_value')
        actor.step()

    with monitored([actor, critic]) as monitor:
        for i in range(8):
            right.begins()
            update_critic(data(i), monitor)
            if i % 2:
                update_actor(data(i))


def delayed_actor_above(right: Right, monitored: Callable[..., Any]) -> None:
    """The actor steps before the critic, from the second round on, every second time."""
    model = right.model
    critic, actor = (torch.optim.Adam(model.get_submodule(part).parameters(), 1e-2) for part in BOTH)
    with monitored([critic, actor]):
        for i in range(8):
            right.begins()
            if i % 2:
                actor.zero_grad()
                (-model(data(i)).mean()).backward()
                right.gradient('head_value')
                nn.utils.clip_grad_norm_(model.head_value.parameters(), 0.01)
                actor.step()
            critic.zero_grad()
            model(data(i)).square().mean().backward()
            right.gradient('encoder')
            nn.utils.clip_grad_norm_(model.encoder.parameters(), 0.01)
            critic.step()


def sac_that_makes_up_for_its_delay(right: Right, monitored: Callable[..., Any]) -> None:
    """As in CleanRL: the delayed actor steps as often in a row as it has rested; each time is an update of its own."""
    model = right.model
    critic, actor = (torch.optim.Adam(model.get_submodule(part).parameters(), 1e-2) for part in BOTH)
    with monitored([critic, actor]):
        for i in range(6):
            right.begins()
            critic.zero_grad()
            model(data(i)).square().mean().backward()
            right.gradient('encoder')
            critic.step()
            if i % 2 == 0:
                for again in range(2):
                    if again:
                        right.begins()
                    actor.zero_grad()
                    (-model(data(i)).mean()).backward()
                    right.gradient('head_value')
                    actor.step()


def gan_with_a_scaler(right: Right, monitored: Callable[..., Any]) -> None:
    """Both are scaled and clipped by one scaler; the second overflows at first, and the first does not."""
    model = right.model
    rates = (1e-3, 1e-30)
    first, second = (
        torch.optim.SGD(model.get_submodule(part).parameters(), rate) for part, rate in zip(BOTH, rates, strict=True)
    )
    scaler = torch.amp.GradScaler('cpu', init_scale=2.0**40, growth_interval=100)
    with monitored([first, second], scaler=scaler):
        for i in range(6):
            right.begins()
            for part, optimizer, factor in (('encoder', first, 1.0), ('head_value', second, 2.0**88)):
                model.zero_grad()
                scaler.scale(factor * model(data(i)).square().mean()).backward()
                scaler.unscale_(optimizer)
                if all(torch.isfinite(p.grad).all() for p in model.get_submodule(part).parameters()):
                    right.gradient(part)
                scaler.step(optimizer)
            scaler.update()
            right.left_out += len(right.gradients[-1]) == 1


def a_step_that_raises(right: Right, monitored: Callable[..., Any]) -> None:
    """Whoever trains goes on, with the next batch."""
    model = right.model
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with monitored(optimizer):
        for i in range(5):
            right.begins()
            optimizer.zero_grad()
            model(data(i)).square().mean().backward()
            right.gradient(*BOTH)
            if i == 2:
                right.is_skipped()
                optimizer.param_groups[0]['lr'] = 'fast'
                with contextlib.suppress(TypeError):
                    optimizer.step()
                optimizer.param_groups[0]['lr'] = 0.1
                continue
            optimizer.step()


def backward_steps(right: Right, monitored: Callable[..., Any]) -> None:
    """One optimizer per parameter, which steps inside the backward pass and frees the gradient."""
    model = right.model
    optimizers = {parameter: torch.optim.SGD([parameter], 0.05) for parameter in model.parameters()}
    squares: dict[str, float] = {}
    names = {id(p): part for part in BOTH for p in model.get_submodule(part).parameters()}

    def step(parameter: nn.Parameter) -> None:
        part = names[id(parameter)]
        squares[part] = squares.get(part, 0.0) + norm([parameter.grad]) ** 2
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    with monitored(list(optimizers.values())) as monitor:
        for i in range(5):
            right.begins()
            squares.clear()
            out = model(data(i))
            right.publish(monitor, out)
            out.square().mean().backward()
            right.gradients[-1].update({part: square**0.5 for part, square in squares.items()})


def unlucky_batches(right: Right, monitored: Callable[..., Any]) -> None:
    """Skips what is not finite, also twice in a row, and what it has published then."""
    model = right.model
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    with monitored(optimizer) as monitor:
        for i in range(9):
            x = data(i)
            if i in (0, 3, 4):
                x[0, 0] = float('inf') if i else float('nan')
            right.begins()
            value = model(x)
            right.publish(monitor, value)
            optimizer.zero_grad()
            value.square().mean().backward()
            right.gradient(*BOTH)
            if not torch.isfinite(nn.utils.clip_grad_norm_(model.parameters(), 0.1)):
                right.is_skipped()
                continue
            optimizer.step()


def scaler_finds_its_scale(right: Right, monitored: Callable[..., Any]) -> None:
    """Unscales and clips, as under autocast; the first steps overflow."""
    model = right.model
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    scaler = torch.amp.GradScaler('cpu', init_scale=2.0**127, growth_interval=100)
    with monitored(optimizer, scaler=scaler):
        for i in range(10):
            right.begins()
            optimizer.zero_grad()
            scaler.scale((8 * model(data(i))).square().mean()).backward()
            scaler.unscale_(optimizer)
            right.gradient(*BOTH)
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            before = norm(model.parameters())
            scaler.step(optimizer)
            scaler.update()
            if norm(model.parameters()) == before:
                right.is_skipped()


def fused_optimizer_with_a_scaler(right: Right, monitored: Callable[..., Any]) -> None:
    """A fused optimizer is always stepped, and leaves the step out itself."""
    model = right.model
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, fused=True)
    scaler = torch.amp.GradScaler('cpu', init_scale=2.0**127)
    with monitored(optimizer, scaler=scaler):
        for i in range(8):
            right.begins()
            optimizer.zero_grad()
            scale = scaler.get_scale()
            scaler.scale((8 * model(data(i))).square().mean()).backward()
            right.gradient(*BOTH)
            right.gradients[-1] = {part: value / scale for part, value in right.gradients[-1].items()}
            before = norm(model.parameters())
            scaler.step(optimizer)
            scaler.update()
            if norm(model.parameters()) == before:
                right.is_skipped()


def optimizers_in_a_loop(right: Right, monitored: Callable[..., Any]) -> None:
    """One loss, several optimizers that step one after the other in a loop of their own."""
    model = right.model
    optimizers = [torch.optim.SGD(model.get_submodule(part).parameters(), 1e-2) for part in BOTH]
    with monitored(optimizers) as monitor:
        for i in range(5):
            right.begins()
            value = model(data(i))
            right.publish(monitor, value)
            for optimizer in optimizers:
                optimizer.zero_grad()
            value.square().mean().backward()
            right.gradient(*BOTH)
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            for optimizer in reversed(optimizers):
                optimizer.step()


def an_optimizer_for_each_task(right: Right, monitored: Callable[..., Any]) -> None:
    """Both optimizers hold the encoder, and each has a loss of its own: these are two learner steps."""
    model = right.model
    optimizers = [
        torch.optim.SGD([*model.encoder.parameters(), *(model.head_value.parameters() if first else ())], 0.05)
        for first in (True, False)
    ]
    with monitored(optimizers):
        for i in range(4):
            for task, optimizer in enumerate(optimizers):
                right.begins()
                model.zero_grad()
                model(data(2 * i + task)).square().mean().backward()
                right.gradient('encoder', *(() if task else ('head_value',)))
                optimizer.step()


class Lookahead(torch.optim.Optimizer):
    """Fast weights go ahead, slow ones follow every few steps."""

    def __init__(self, optimizer: torch.optim.Optimizer, every: int = 3) -> None:
        self.optimizer, self.every, self.count = optimizer, every, 0
        self.param_groups, self.defaults = optimizer.param_groups, optimizer.defaults
        self.slow = [p.detach().clone() for group in self.param_groups for p in group['params']]

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.optimizer.step()
        self.count += 1
        if self.count % self.every == 0:
            for slow, p in zip(self.slow, (p for group in self.param_groups for p in group['params']), strict=True):
                slow.lerp_(p, 0.5)
                p.copy_(slow)


def lookahead(right: Right, monitored: Callable[..., Any]) -> None:
    """A wrapper that never called its base class."""
    model = right.model
    optimizer = Lookahead(torch.optim.Adam(model.parameters(), 1e-2))
    with monitored(optimizer):
        for i in range(7):
            right.begins()
            optimizer.zero_grad()
            model(data(i)).square().mean().backward()
            right.gradient(*BOTH)
            optimizer.step()


LOOPS: dict[str, Loop] = {
    function.__name__: function
    for function in (
        gan,
        generator_first,
        discriminator_in_an_inner_loop,
        accumulation_without_the_last,
        lbfgs,
        swa_and_ema,
        ppo,
        dqn,
        sam,
        sam_by_closure,
        td3,
        delayed_actor_above,
        sac_that_makes_up_for_its_delay,
        gan_with_a_scaler,
        a_step_that_raises,
        backward_steps,
        unlucky_batches,
        scaler_finds_its_scale,
        fused_optimizer_with_a_scaler,
        optimizers_in_a_loop,
        an_optimizer_for_each_task,
        lookahead,
    )
}
