"""All LightZero classes that the multi-task policy uses, imported in one place.

``lzero``'s world model sets the level of the **root** logger to DEBUG when it is imported, so that every library of the
process would log debug lines. This module restores the level; other modules import LightZero's classes from here.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

_root_level = logging.getLogger().level
_disabled_before = logging.root.manager.disable
# LightZero sets the level in the middle of its imports; later imports would already log debug lines.
logging.disable(max(_disabled_before, logging.DEBUG))
_warnings = warnings.catch_warnings()
_warnings.__enter__()
# Warnings about gymnasium plugins and deprecated calls inside other packages, which a user cannot change.
warnings.simplefilter('ignore')
try:
    from lzero.mcts import UniZeroMCTSCtree
    from lzero.model.common import (
        MZNetworkOutput,
        RepresentationNetworkMLP,
        RepresentationNetworkUniZero,
        SimNorm,
    )
    from lzero.model.unizero_model import UniZeroModel
    from lzero.model.unizero_world_models.kv_caching import KeysValues
    from lzero.model.unizero_world_models.slicer import Head
    from lzero.model.unizero_world_models.tokenizer import Tokenizer
    from lzero.model.unizero_world_models.utils import LossWithIntermediateLosses, WorldModelOutput, init_weights
    from lzero.model.unizero_world_models.world_model import WorldModel
    from lzero.policy import (
        DiscreteSupport,
        InverseScalarTransform,
        mz_network_output_unpack,
        phi_transform,
        scalar_transform,
        select_action,
    )
    from lzero.policy.unizero import UniZeroPolicy
    from lzero.policy.utils import configure_optimizers_nanogpt
finally:
    _warnings.__exit__(None, None, None)
    logging.getLogger().setLevel(_root_level)
    logging.disable(_disabled_before)

__all__ = [
    'DiscreteSupport',
    'Head',
    'InverseScalarTransform',
    'KeysValues',
    'LossWithIntermediateLosses',
    'MZNetworkOutput',
    'RepresentationNetworkMLP',
    'RepresentationNetworkUniZero',
    'SimNorm',
    'Tokenizer',
    'UniZeroMCTSCtree',
    'UniZeroModel',
    'UniZeroPolicy',
    'WorldModel',
    'WorldModelOutput',
    'configure_optimizers_nanogpt',
    'init_weights',
    'mz_network_output_unpack',
    'phi_transform',
    'quiet_construction',
    'scalar_transform',
    'select_action',
]


@contextlib.contextmanager
def quiet_construction() -> Iterator[None]:
    """Suppress what LightZero prints while a model is being built.

    Its constructors print one line per layer and two per head, hundreds of lines for a few tasks. Errors are raised
    as usual.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        yield
