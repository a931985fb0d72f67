"""Policies that are not DI-engine's but look like them: one for each way in which gradients come about."""

from __future__ import annotations

from typing import Any

import torch
from ding.torch_utils import Adam as ClippingAdam
from torch import Tensor, nn


class Model(nn.Module):
    """An encoder, an actor and a critic on it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(4, 8)
        self.actor_head = nn.Linear(8, 2)
        self.critic_head = nn.Linear(8, 1)

    def forward(self, data: Tensor) -> tuple[Tensor, Tensor]:
        """Return what both heads say."""
        hidden = torch.tanh(self.encoder(data))
        return self.actor_head(hidden), self.critic_head(hidden)


class Policy:
    """Plain: one backward pass, one optimizer, nothing clipped. Others override ``update``."""

    def __init__(self) -> None:
        self._learn_model = Model()
        self._optimizer: Any = torch.optim.Adam(self._learn_model.parameters(), lr=1e-2)
        self.seen: list[dict[str, Tensor]] = []

    def _forward_learn(self, data: Tensor) -> dict[str, float]:
        loss = self.loss(data)
        self.update(loss)
        return {'total_loss': float(loss.detach())}

    def loss(self, data: Tensor) -> Tensor:
        """Return the loss."""
        actor, critic = self._learn_model(data)
        return (actor**2).sum() + (critic**2).sum()

    def update(self, loss: Tensor) -> None:
        """Change the weights."""
        self._optimizer.zero_grad()
        loss.backward()
        self.keep()
        self._optimizer.step()

    def keep(self, scale: float = 1.0) -> None:
        """Remember the gradients that should be reported."""
        self.seen.append(
            {n: p.grad.double() / scale for n, p in self._learn_model.named_parameters() if p.grad is not None}
        )


class Clipping(Policy):
    def update(self, loss: Tensor) -> None:
        self._optimizer.zero_grad()
        loss.backward()
        self.keep()
        torch.nn.utils.clip_grad_norm_(self._learn_model.parameters(), 0.1)
        self._optimizer.step()


class ClippingInParts(Policy):
    """Encoder first, then everything, as LightZero does."""

    def update(self, loss: Tensor) -> None:
        self._optimizer.zero_grad()
        loss.backward()
        self.keep()
        torch.nn.utils.clip_grad_norm_(self._learn_model.encoder.parameters(), 0.1)
        torch.nn.utils.clip_grad_norm_(parameters=list(self._learn_model.parameters()), max_norm=0.1)
        self._optimizer.step()


class ClippingValues(Policy):
    def update(self, loss: Tensor) -> None:
        self._optimizer.zero_grad()
        loss.backward()
        self.keep()
        torch.nn.utils.clip_grad_value_(self._learn_model.parameters(), 0.01)
        self._optimizer.step()


class ClippingInStep(Policy):
    settings: dict[str, Any] = {'grad_clip_type': 'clip_norm', 'clip_value': 0.1}

    def __init__(self) -> None:
        super().__init__()
        self._optimizer = ClippingAdam(self._learn_model.parameters(), lr=1e-2, **self.settings)


class IgnoringInStep(ClippingInStep):
    settings = {'grad_ignore_type': 'ignore_norm', 'ignore_value': 0.1}


class ClippingValuesInStep(ClippingInStep):
    settings = {'grad_clip_type': 'clip_value', 'clip_value': 0.01}


class SeveralBackwards(Policy):
    def update(self, loss: Tensor) -> None:
        self._optimizer.zero_grad()
        (loss / 2).backward(retain_graph=True)
        (loss / 2).backward()
        self.keep()
        self._optimizer.step()


class Correcting(Policy):
    """Writes ``.grad`` itself after a backward pass for each task, as MoCo and its relatives do; what is reported is
    what the last backward pass has left there."""

    def update(self, loss: Tensor) -> None:
        self._optimizer.zero_grad()
        loss.backward(retain_graph=True)
        corrected = [parameter.grad.clone() * 0.25 for parameter in self._learn_model.parameters()]
        self._optimizer.zero_grad()
        loss.backward()
        self.keep()
        for parameter, gradient in zip(self._learn_model.parameters(), corrected, strict=True):
            parameter.grad = gradient
        self._optimizer.step()


class ActorCritic(Policy):
    """Two optimizers, one after the other; the critic's gradients are spoilt by the actor's backward pass."""

    def __init__(self) -> None:
        super().__init__()
        model = self._learn_model
        self._optimizer_actor = torch.optim.Adam(model.actor_head.parameters(), lr=1e-2)
        self._optimizer = torch.optim.Adam([*model.encoder.parameters(), *model.critic_head.parameters()], lr=1e-2)
        self.rest = False

    def _forward_learn(self, data: Tensor) -> dict[str, float]:
        self._optimizer.zero_grad()
        (self._learn_model(data)[1] ** 2).sum().backward()
        final = {n: p.grad.double() for n, p in self._learn_model.named_parameters() if 'actor' not in n}
        self._optimizer.step()
        if not self.rest:
            self._optimizer_actor.zero_grad()
            ((self._learn_model(data)[0] ** 2).sum() + (self._learn_model(data)[1] ** 2).sum()).backward()
            final |= {n: p.grad.double() for n, p in self._learn_model.named_parameters() if 'actor' in n}
            self._optimizer_actor.step()
        self.seen.append(final)
        return {}


class Accumulating(Policy):
    """Steps at every third call."""

    calls = 0

    def update(self, loss: Tensor) -> None:
        loss.backward()
        self.calls += 1
        if self.calls % 3 == 0:
            self.keep()
            self._optimizer.step()
            self._optimizer.zero_grad()


class Scaling(Policy):
    """Scales its loss; ``unscale_`` is left to the scaler."""

    clip: float | None = None
    unscale = False

    def __init__(self) -> None:
        super().__init__()
        self._scaler = torch.amp.GradScaler('cpu', init_scale=1024.0)

    def update(self, loss: Tensor) -> None:
        self._optimizer.zero_grad()
        self._scaler.scale(loss).backward()
        self.keep(self._scaler.get_scale())
        if self.unscale:
            self._scaler.unscale_(self._optimizer)
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self._learn_model.parameters(), self.clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()


class ScalingAndClipping(Scaling):
    clip = 0.1
    unscale = True


class ClippingScaled(Scaling):
    clip = 100.0


class WithoutOptimizer(Policy):
    """Moves its weights by hand, after two backward passes."""

    def __init__(self) -> None:
        super().__init__()
        del self._optimizer

    def update(self, loss: Tensor) -> None:
        self._learn_model.zero_grad()
        (loss / 2).backward(retain_graph=True)
        (loss / 2).backward()
        self.keep()
        self.clip()
        with torch.no_grad():
            for parameter in self._learn_model.parameters():
                parameter -= 0.01 * parameter.grad

    def clip(self) -> None:
        """Leave the gradients as they are."""


class ClippingWithoutOptimizer(WithoutOptimizer):
    def clip(self) -> None:
        torch.nn.utils.clip_grad_norm_(self._learn_model.parameters(), 0.1)


class Wrapped:
    """An optimizer inside another object, as DI-engine's PCGrad has it."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optim = optimizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._optim, name)


class WrappedOptimizer(Policy):
    def __init__(self) -> None:
        super().__init__()
        self._optimizer = Wrapped(self._optimizer)


EVIDENCE = {
    Policy: 'optimizer pre-step',
    Clipping: 'clip call',
    ClippingInParts: 'clip call',
    ClippingValues: 'clip call',
    ClippingInStep: 'optimizer pre-step',
    IgnoringInStep: 'optimizer pre-step',
    ClippingValuesInStep: 'optimizer pre-step',
    SeveralBackwards: 'optimizer pre-step',
    Correcting: 'optimizer pre-step',
    ActorCritic: 'optimizer pre-step',
    Scaling: 'GradScaler.step',
    ScalingAndClipping: 'clip call',
    ClippingScaled: 'clip call',
    WithoutOptimizer: 'end of the last backward',
    ClippingWithoutOptimizer: 'clip call',
    WrappedOptimizer: 'optimizer pre-step',
}
COEFFICIENTS: dict[type[Policy], dict[str, float]] = {
    Clipping: {'model': 0.1},
    ClippingInStep: {'model': 0.1},
    ScalingAndClipping: {'model': 0.1},
    ClippingWithoutOptimizer: {'model': 0.1},
}
