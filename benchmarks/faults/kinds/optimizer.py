"""Faults of the optimizer and of what happens to gradients on their way to it."""

from __future__ import annotations

import torch

from benchmarks.faults.kinds.fault import Fault


class HeadLearningRate(Fault):
    """The learning rate of the task's value head is far too high."""

    strengths = (10.0, 50.0)

    def begin(self) -> None:
        self.scale_option('lr', self.strength, self.heads('head_value'))


class WeightDecay(Fault):
    """The weight decay of the task's heads is far too high."""

    strengths = (500.0, 3000.0)

    def begin(self) -> None:
        self.scale_option('weight_decay', self.strength, self.heads('head_value', 'head_policy', 'head_rewards'))


class AllWeightDecay(Fault):
    """The weight decay of everything is far too high."""

    scopes = ('all',)
    strengths = (500.0, 3000.0)

    def begin(self) -> None:
        self.scale_option('weight_decay', self.strength)


class LearningRateUp(Fault):
    """The learning rate is many times as high."""

    scopes = ('all',)
    strengths = (5.0, 20.0)

    def begin(self) -> None:
        self.scale_option('lr', self.strength)


class LearningRateZero(Fault):
    """The learning rate is 0."""

    scopes = ('all',)

    def begin(self) -> None:
        self.scale_option('lr', 0.0)


class TinyClipLimit(Fault):
    """The clip limit takes almost all of every gradient."""

    scopes = ('all',)
    strengths = (1e3, 1e5)

    def begin(self) -> None:
        self.policy._cfg.grad_clip_value /= self.strength


class LargeEpsilon(Fault):
    """The optimizer's epsilon is as large as the gradient, so that steps are tiny."""

    scopes = ('all',)
    strengths = (1.0, 100.0)

    def begin(self) -> None:
        for group in self.optimizer.param_groups:
            group['eps'] = self.strength


class StateLost(Fault):
    """The optimizer forgets its moments again and again, as where it is made anew in every iteration."""

    scopes = ('all',)

    def begin(self) -> None:
        self.after_backward(self.optimizer.state.clear)


class EncoderLeavesOptimizer(Fault):
    """The optimizer no longer holds the encoder."""

    scopes = ('all',)
    breaks_invariant = True

    def begin(self) -> None:
        mine = {id(parameter) for parameter in self.world_model.tokenizer.encoder.parameters()}
        for group in self.optimizer.param_groups:
            group['params'] = [parameter for parameter in group['params'] if id(parameter) not in mine]


class GradientNoiseAdded(Fault):
    """Noise many times as large as the gradient is added to it."""

    scopes = ('all',)
    strengths = (3.0, 30.0)

    def begin(self) -> None:
        def change() -> None:
            for parameter in self.world_model.parameters():
                if parameter.grad is not None:
                    size = parameter.grad.norm() / parameter.grad.numel() ** 0.5
                    parameter.grad += self.strength * size * torch.randn_like(parameter.grad)

        self.after_backward(change)


class HeadGradientScaled(Fault):
    """The gradients of the task's heads are multiplied on their way."""

    strengths = (10.0, 100.0)

    def begin(self) -> None:
        def change() -> None:
            for parameter in self.heads():
                if parameter.grad is not None:
                    parameter.grad *= self.strength

        self.after_backward(change)
