"""Which of LightZero's families a policy belongs to."""

from __future__ import annotations

from typing import Any

from torch import nn

from ding_normmon.core.parameter_groups import unwrap
from ding_normmon.integrations.lightzero.muzero import MuZeroAdapter
from ding_normmon.integrations.lightzero.unizero import UniZeroAdapter

__all__ = ['lightzero_adapter']


def lightzero_adapter(policy: Any) -> MuZeroAdapter | UniZeroAdapter | None:
    """Return the adapter of one of LightZero's policies, or None for any other object."""
    model = getattr(policy, '_learn_model', None)
    if model is None:  # A compiled model has no truth value.
        model = getattr(policy, '_model', None)
    if not isinstance(model, nn.Module) or not callable(getattr(policy, '_forward_learn', None)):
        return None
    for family in (UniZeroAdapter, MuZeroAdapter):
        if family.fits(unwrap(model)):
            return family(policy, model)
    return None
