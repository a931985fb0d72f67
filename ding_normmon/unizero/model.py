"""The multi-task UniZero model, and its view of one task for the tree search and the replay buffer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from ding.utils import MODEL_REGISTRY
from easydict import EasyDict
from lzero.model.common import MZNetworkOutput
from lzero.model.unizero_model import UniZeroModel
from lzero.model.unizero_world_models.tokenizer import Tokenizer
from numpy.typing import NDArray
from torch import Tensor, nn

from ding_normmon.unizero.encoders import build_encoders
from ding_normmon.unizero.inference_cache import InferenceCache
from ding_normmon.unizero.task_modules import PerTaskModules, TaskSelection
from ding_normmon.unizero.task_spec import TaskSpec
from ding_normmon.unizero.world_model import HEAD_NAMES, MultitaskWorldModel

__all__ = ['BoundModel', 'UniZeroMultitaskModel']


@MODEL_REGISTRY.register('UniZeroMultitaskModel')
class UniZeroMultitaskModel(UniZeroModel):
    """LightZero's UniZero model around a multi-task world model.

    All parameters are under ``world_model``; the encoder is ``world_model.tokenizer.encoder``, a
    :class:`PerTaskModules` where the tasks' observations differ in shape.

    Arguments:
        tasks: all tasks of the run.
        model_cfg: ``cfg.model`` of the policy.

    Raises:
        ValueError: no encoder fits a task, or ``share_head`` with different action spaces.
    """

    def __init__(self, tasks: Sequence[TaskSpec], model_cfg: EasyDict) -> None:
        # The parent's constructor builds a single-task world model and lists the encoder a second time.
        nn.Module.__init__(self)
        self.tasks = list(tasks)
        self.selection = TaskSelection(len(tasks))
        encoder = build_encoders(tasks, model_cfg, self.selection)
        tokenizer = Tokenizer(encoder=encoder, decoder_network=None, with_lpips=False)
        self.world_model = MultitaskWorldModel(model_cfg.world_model_cfg, tokenizer, tasks, self.selection)

    @property
    def representation_network(self) -> nn.Module:
        """The encoder, under the name it has in LightZero's model."""
        encoder: nn.Module = self.world_model.tokenizer.encoder
        return encoder

    def private_parameters(self) -> dict[int, list[nn.Parameter]]:
        """Return the parameters used by one task only: its heads, and its encoder if there is one per task.

        Returns:
            Global task id to parameters; an entry for every task of the run.
        """
        candidates = [getattr(self.world_model, name) for name in HEAD_NAMES] + [self.representation_network]
        private = [module for module in candidates if isinstance(module, PerTaskModules) and not module.shared]
        return {
            task_id: [parameter for modules in private for parameter in modules[task_id].parameters()]
            for task_id in range(len(self.tasks))
        }

    def shared_parameters(self) -> list[nn.Parameter]:
        """Return the parameters shared by all tasks, in the order of ``parameters()``."""
        private = {id(parameter) for parameters in self.private_parameters().values() for parameter in parameters}
        return [parameter for parameter in self.parameters() if id(parameter) not in private]


class BoundModel:
    """The model bound to one task in one mode, for code that passes no task id.

    Arguments:
        model: the multi-task model.
        task_id: global task id.

    Attributes:
        cache: inference cache of this task and mode.
    """

    def __init__(self, model: UniZeroMultitaskModel, task_id: int) -> None:
        self.model = model
        self.task_id = task_id
        self.cache = InferenceCache()

    @property
    def world_model(self) -> MultitaskWorldModel:
        """The world model; the task is selected in it only during this object's calls."""
        return self.model.world_model

    @property
    def training(self) -> bool:
        """Whether the model is in training mode."""
        return self.model.training

    def eval(self) -> BoundModel:
        """Set the model's evaluation mode."""
        self.model.eval()
        return self

    def to(self, *args: Any, **kwargs: Any) -> BoundModel:
        """Move the model."""
        self.model.to(*args, **kwargs)
        return self

    def initial_inference(
        self,
        obs_batch: Tensor,
        action_batch: Any = None,
        current_obs_batch: Tensor | None = None,
        start_pos: Any = 0,
        environment_ids: Sequence[int] | None = None,
    ) -> MZNetworkOutput:
        """Infer at the roots of a search; see :meth:`MultitaskWorldModel.forward_initial_inference`.

        Arguments:
            obs_batch: (n, *shape).
            action_batch: n actions, -1 at the first step of an episode.
            current_obs_batch: (n, *shape), or None for sampled sequences.
            start_pos: first time steps.
            environment_ids: n ids of the environments that the rows come from; 0 to n - 1 by default.
        """
        dtype = self.world_model.pos_emb.weight.dtype
        self.cache.environment_ids = environment_ids
        with self.world_model.bound(self.task_id, self.cache), torch.no_grad():
            return self.model.initial_inference(
                obs_batch.to(dtype),
                action_batch,
                None if current_obs_batch is None else current_obs_batch.to(dtype),
                start_pos,
            )

    def recurrent_inference(
        self,
        state_action_history: Sequence[tuple[NDArray[Any], Tensor]],
        simulation_index: int = 0,
        search_depth: Sequence[int] | None = None,
        start_pos: Any = 0,
    ) -> MZNetworkOutput:
        """Expand one node per tree; see :meth:`MultitaskWorldModel.forward_recurrent_inference`."""
        with self.world_model.bound(self.task_id, self.cache), torch.no_grad():
            return self.model.recurrent_inference(state_action_history, simulation_index, search_depth, start_pos)
