"""Faults of the network: frozen, dead, reset, scaled and noisy parts."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from benchmarks.faults.kinds.fault import Batches, Fault


class FrozenHead(Fault):
    """The task's value head is no longer trained."""

    breaks_invariant = True

    def begin(self) -> None:
        for parameter in self.heads('head_value'):
            parameter.requires_grad_(False)


class FrozenEncoder(Fault):
    """The shared encoder is no longer trained."""

    scopes = ('all',)
    breaks_invariant = True

    def begin(self) -> None:
        self.world_model.tokenizer.encoder.requires_grad_(False)
        self.undo.append(self.world_model.tokenizer.encoder.requires_grad_)


class DeadEncoder(Fault):
    """Three quarters of the channels of the encoder are shut for good: GELU(-20) and its slope are 0."""

    scopes = ('all',)

    @torch.no_grad()
    def begin(self) -> None:
        for module in self.world_model.tokenizer.encoder.modules():
            if isinstance(module, nn.GroupNorm):
                dead = slice(0, 3 * module.num_channels // 4)
                module.weight[dead] = 0.0
                module.bias[dead] = -20.0


class HeadReset(Fault):
    """The task's value head is made anew, as where a checkpoint has lost it."""

    @torch.no_grad()
    def begin(self) -> None:
        for task in self.tasks:
            for module in self.head('head_value', task).modules():
                if isinstance(module, nn.Linear):
                    module.reset_parameters()


class TransformerReset(Fault):
    """The transformer is made anew."""

    scopes = ('all',)

    @torch.no_grad()
    def begin(self) -> None:
        for module in self.world_model.transformer.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()


class LogitsScaled(Fault):
    """The last layers of value and policy heads are multiplied."""

    scopes = ('task', 'all')
    strengths = (5.0, 20.0)

    @torch.no_grad()
    def begin(self) -> None:
        for task in self.tasks:
            for which in ('head_value', 'head_policy'):
                layer = self.last_linear(which, task)
                layer.weight *= self.strength
                layer.bias *= self.strength


class TokensScaled(Fault):
    """The transformer's last normalisation is multiplied."""

    scopes = ('all',)
    strengths = (3.0, 30.0)

    @torch.no_grad()
    def begin(self) -> None:
        last = [module for module in self.world_model.transformer.modules() if isinstance(module, nn.LayerNorm)][-1]
        last.weight *= self.strength


class WeightNoise(Fault):
    """Noise is written into the weights of the transformer in every iteration."""

    scopes = ('all',)
    strengths = (0.01, 0.1)

    @torch.no_grad()
    def alter(self, data: Batches) -> Batches:
        for parameter in self.world_model.transformer.parameters():
            size = parameter.norm() / parameter.numel() ** 0.5
            parameter += self.strength * size * torch.randn_like(parameter)
        return data


class HeadShrinks(Fault):
    """Something multiplies the task's policy head by a little less than 1 in every iteration."""

    strengths = (0.90, 0.98)

    @torch.no_grad()
    def alter(self, data: Batches) -> Batches:
        for parameter in self.heads('head_policy'):
            parameter *= self.strength
        return data


class EncoderNoise(Fault):
    """The encoder's last layer is drowned in noise, as with a far too high dropout."""

    scopes = ('all',)
    strengths = (0.5, 3.0)

    def begin(self) -> None:
        def noisy(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor | None:
            if not self.world_model.training:
                return None
            size = output.detach().norm() / output.numel() ** 0.5
            return output + self.strength * size * torch.randn_like(output)

        layers = self.world_model.tokenizer.encoder.modules()
        [layer for layer in layers if isinstance(layer, nn.Linear)][-1].register_forward_hook(noisy)
