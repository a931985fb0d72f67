"""Observation encoders: LightZero's own where it fits the observations, else a small one for small images."""

from __future__ import annotations

from collections.abc import Sequence

from easydict import EasyDict
from lzero.model.common import RepresentationNetworkMLP, RepresentationNetworkUniZero, SimNorm
from torch import Tensor, nn

from ding_normmon.unizero.task_modules import PerTaskModules, TaskSelection
from ding_normmon.unizero.task_spec import TaskSpec

__all__ = ['LIGHTZERO_IMAGE_SIZES', 'MAX_SMALL_IMAGE_SIZE', 'SmallImageEncoder', 'build_encoder', 'build_encoders']

LIGHTZERO_IMAGE_SIZES = (64, 84, 96)
"""Heights (= widths) that LightZero's convolutional encoder supports."""

MAX_SMALL_IMAGE_SIZE = 32
"""Largest height or width that :class:`SmallImageEncoder` accepts, because it does not downsample."""


class SmallImageEncoder(nn.Module):
    """Two convolutions and a linear layer for images of a few pixels, such as MiniGrid's 7x7 and MinAtar's 10x10.

    It ends in SimNorm like LightZero's encoders, because the group-KL loss on latent states relies on that.

    Arguments:
        observation_shape: (C, H, W).
        embed_dim: size of the latent state; a multiple of ``group_size``.
        group_size: number of entries that share one softmax.
    """

    def __init__(self, observation_shape: Sequence[int], embed_dim: int, group_size: int) -> None:
        super().__init__()
        channels, height, width = observation_shape
        # GroupNorm with one group is a LayerNorm over (C, H, W) whose parameters do not grow with the image.
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 16, kernel_size=3, padding=1),
            nn.GroupNorm(1, 16),
            nn.GELU(approximate='tanh'),
            nn.Conv2d(16, 32, kernel_size=3, padding=1),
            nn.GroupNorm(1, 32),
            nn.GELU(approximate='tanh'),
            nn.Flatten(),
            nn.Linear(32 * height * width, embed_dim, bias=False),
            SimNorm(simnorm_dim=group_size),
        )

    def forward(self, observations: Tensor) -> Tensor:
        """Encode ``observations`` (N, C, H, W) to latent states (N, embed_dim)."""
        latent: Tensor = self.layers(observations)
        return latent


def build_encoder(observation_shape: Sequence[int], model_cfg: EasyDict) -> nn.Module:
    """Build the encoder that fits an observation shape.

    Arguments:
        observation_shape: (O,) or (C, H, W).
        model_cfg: ``cfg.model`` of the policy.

    Returns:
        A module from (N, *observation_shape) to (N, embed_dim).

    Raises:
        ValueError: no encoder accepts images of this size.
    """
    embed_dim, group_size = model_cfg.world_model_cfg.embed_dim, model_cfg.world_model_cfg.group_size
    if len(observation_shape) == 1:
        return RepresentationNetworkMLP(
            observation_shape[0],
            hidden_channels=embed_dim,
            layer_num=2,
            activation=nn.GELU(approximate='tanh'),
            norm_type=model_cfg.norm_type,
            group_size=group_size,
        )
    _, height, width = observation_shape
    if height == width and height in LIGHTZERO_IMAGE_SIZES:
        return RepresentationNetworkUniZero(
            observation_shape,
            model_cfg.num_res_blocks,
            model_cfg.num_channels,
            downsample=True,
            activation=nn.GELU(approximate='tanh'),
            norm_type=model_cfg.norm_type,
            embedding_dim=embed_dim,
            group_size=group_size,
        )
    if max(height, width) <= MAX_SMALL_IMAGE_SIZE:
        return SmallImageEncoder(observation_shape, embed_dim, group_size)
    raise ValueError(
        f'no encoder accepts images of {height}x{width} pixels: resize them to a square of {LIGHTZERO_IMAGE_SIZES} '
        f'pixels, or to at most {MAX_SMALL_IMAGE_SIZE}x{MAX_SMALL_IMAGE_SIZE}'
    )


def build_encoders(tasks: Sequence[TaskSpec], model_cfg: EasyDict, selection: TaskSelection) -> nn.Module:
    """Build one shared encoder, or one per task where the tasks' observations differ in shape.

    Returns:
        A module from (N, *observation_shape) to (N, embed_dim); a :class:`PerTaskModules` if there is one per task.
    """
    if len({task.observation_shape for task in tasks}) == 1:
        return build_encoder(tasks[0].observation_shape, model_cfg)
    return PerTaskModules([build_encoder(task.observation_shape, model_cfg) for task in tasks], selection)
