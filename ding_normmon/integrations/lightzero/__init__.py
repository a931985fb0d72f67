"""LightZero's own policies, seen from outside: no edit to their source, no version number asked.

Two families are told apart by the model: policies with a world model that computes its own loss (UniZero, Sampled
UniZero and their multi-task versions), and policies that unroll ``initial_inference`` and ``recurrent_inference``
themselves (MuZero, EfficientZero, Gumbel MuZero, multi-task MuZero and their relatives).
"""

from ding_normmon.integrations.lightzero.adapter import lightzero_adapter

__all__ = ['lightzero_adapter']
