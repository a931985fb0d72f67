"""All LightZero classes that the multi-task policy uses, imported in one place."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

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
