"""The parameter groups of MuZero's models, which spread their heads over the networks that they belong to.

The value and policy heads are the last layers of the prediction network, the reward head those of the dynamics
network. A head is everything that serves one output only: for images a 1x1 convolution, a norm and a perceptron side by
side, and in EfficientZero the LSTM that the value prefix comes from. What the outputs have in common stays with its
network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

__all__ = ['muzero_groups']

_DYNAMICS, _PREDICTION, _PREDICTIONS = 'dynamics_network', 'prediction_network', 'prediction_networks'

_PARTS = {
    'head_value': ('prediction', ('conv1x1_value', 'norm_value', 'fc_value', 'fc_value_head')),
    'head_policy': ('prediction', ('conv1x1_policy', 'norm_policy', 'fc_policy', 'fc_policy_head')),
    'head_reward': ('dynamics', ('conv1x1_reward', 'norm_reward', 'lstm', 'norm_value_prefix', 'fc_reward_head')),
}
_WHOLE = {
    'projection': ('projection', 'projection_network', 'prediction_head'),
}


def muzero_groups(model: nn.Module) -> Mapping[str, Any]:
    """Return ``module_groups`` for a model with dynamics and prediction networks; the encoder is a default group.

    With one prediction network per task, the value and policy heads and the rest of those networks are per task.
    """
    groups: dict[str, Any] = {}
    predictions = getattr(model, _PREDICTIONS, None)
    prediction, example = _PREDICTION, getattr(model, _PREDICTION, None)
    if isinstance(predictions, nn.ModuleList) and len(predictions):
        prediction, example = f'{_PREDICTIONS}.*', predictions[0]
    networks = {'prediction': (prediction, example), 'dynamics': (_DYNAMICS, getattr(model, _DYNAMICS, None))}
    for group, (network, parts) in _PARTS.items():
        prefix, module = networks[network]
        # A part without parameters (a norm that is switched off) is no group.
        if found := [f'{prefix}.{part}' for part in parts if _has_parameters(getattr(module, part, None))]:
            groups[group] = {'path': found}
    for network, (prefix, module) in networks.items():
        if _has_parameters(module):
            groups[network] = {'path': [prefix]}
    for group, parts in _WHOLE.items():
        if found := [part for part in parts if _has_parameters(getattr(model, part, None))]:
            groups[group] = {'path': found}
    return groups


def _has_parameters(module: Any) -> bool:
    return isinstance(module, nn.Module) and any(True for _ in module.parameters())
