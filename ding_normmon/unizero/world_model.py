"""LightZero's world model with one set of heads, a task embedding and separate caches per task."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from easydict import EasyDict
from lzero.model.common import SimNorm
from lzero.model.unizero_world_models.slicer import Head
from lzero.model.unizero_world_models.tokenizer import Tokenizer
from lzero.model.unizero_world_models.utils import WorldModelOutput, init_weights
from lzero.model.unizero_world_models.world_model import WorldModel
from numpy.typing import NDArray
from torch import Tensor, nn

from ding_normmon.unizero.inference_cache import (
    Context,
    InferenceCache,
    RowCollector,
    pack,
    rows_of_equal_size,
    unpack,
)
from ding_normmon.unizero.task_modules import PerTaskModules, TaskSelection
from ding_normmon.unizero.task_spec import TaskSpec

__all__ = ['HEAD_NAMES', 'MultitaskWorldModel', 'TrainingTensors']

HEAD_NAMES = ('head_value', 'head_rewards', 'head_policy', 'head_observations')
"""Attributes of the world model that hold one head per task."""


@dataclass
class TrainingTensors:
    """Intermediate tensors of one training forward pass, kept only while :meth:`keep_training_tensors` is open.

    Arguments:
        outputs: LightZero's output object: ``output_sequence`` (B, 2T, E), ``logits_*`` (B, T, .).
        obs_embeddings: (B*T, 1, E) encoder outputs.
    """

    outputs: WorldModelOutput | None = None
    obs_embeddings: Tensor | None = None


class MultitaskWorldModel(WorldModel):
    """One encoder and transformer, and a value, reward, policy and observation head per task.

    Every call needs a task: ``with world_model.bound(task_id, cache): ...``. The parent's ``forward`` and
    ``compute_loss`` are used unchanged. Inference for collecting and evaluating is rewritten, because the parent's
    caches do not distinguish tasks, nor environments that start an episode while others are in the middle of one.

    Arguments:
        config: ``cfg.model.world_model_cfg`` of the policy.
        tokenizer: LightZero's tokenizer around the encoder.
        tasks: all tasks of the run.
        selection: the model's task selection.

    Raises:
        ValueError: ``share_head`` with different action spaces.
    """

    def __init__(
        self, config: EasyDict, tokenizer: Tokenizer, tasks: Sequence[TaskSpec], selection: TaskSelection
    ) -> None:
        self._action_space_sizes = [task.action_space_size for task in tasks]
        # Set first, because the parent's constructor reads and writes `action_space_size` below.
        self.selection = selection
        if config.share_head and len(set(self._action_space_sizes)) > 1:
            raise ValueError(
                f'share_head=True needs the same action space size for all tasks, got {self._action_space_sizes}'
            )
        super().__init__(config, tokenizer)
        self.inference = InferenceCache()
        self._kept: TrainingTensors | None = None
        self._position_shift_is_current = False
        self.task_embedding = nn.Embedding(len(tasks), config.embed_dim)
        init_weights(self.task_embedding)
        # These replace the single heads that the parent has built, so that none of them is left behind.
        self.head_value = self._create_heads(self.value_policy_tokens_pattern, [self.support_size] * len(tasks))
        self.head_rewards = self._create_heads(self.act_tokens_pattern, [self.support_size] * len(tasks))
        self.head_policy = self._create_heads(self.value_policy_tokens_pattern, self._action_space_sizes)
        self.head_observations = self._create_heads(
            self.all_but_last_latent_state_pattern, [self.obs_per_embdding_dim] * len(tasks), sim_norm=True
        )
        # Only the parent's constructor uses it; the heads have their own, so that no module is listed twice.
        del self.sim_norm
        self.to(self.device)

    # The parent assigns one action space size and reads it to shape the labels of the policy loss.
    @property
    def action_space_size(self) -> int:
        """Number of actions of the selected task; if none is selected, the largest of all tasks."""
        if self.selection.is_set:
            return self._action_space_sizes[self.selection.task_id]
        return max(self._action_space_sizes)

    @action_space_size.setter
    def action_space_size(self, value: int) -> None:
        """Ignore what the parent's constructor assigns."""

    def _create_heads(self, block_mask: Tensor, output_sizes: Sequence[int], sim_norm: bool = False) -> PerTaskModules:
        """Build the heads of one kind, one per task or one for all; as in the parent, their last layer starts at 0."""
        heads: list[Head] = []
        for output_size in output_sizes[:1] if self.config.share_head else output_sizes:
            norm = SimNorm(simnorm_dim=self.group_size) if sim_norm else None
            head = self._create_head(block_mask, output_size, norm)
            head.apply(lambda module: init_weights(module, norm_type=self.config.norm_type))
            last_linear = [layer for layer in head.head_module if isinstance(layer, nn.Linear)][-1]
            nn.init.zeros_(last_linear.weight)
            nn.init.zeros_(last_linear.bias)
            heads.append(head)
        return PerTaskModules(heads, self.selection, shared=self.config.share_head)

    def _initialize_transformer_keys_values(self) -> None:
        """Allocate nothing: the parent's own cache tensors are never used."""

    # --- selecting a task -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def bound(self, task_id: int, cache: InferenceCache | None = None) -> Iterator[None]:
        """Select a task inside the block.

        Arguments:
            task_id: global task id.
            cache: inference cache of this task and mode; a new one by default.
        """
        previous_task = self.selection.select(task_id)
        previous_cache, self.inference = self.inference, cache if cache is not None else InferenceCache()
        try:
            yield
        finally:
            self.selection.select(previous_task)
            self.inference = previous_cache

    # --- training ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def keep_training_tensors(self) -> Iterator[TrainingTensors]:
        """Keep the tensors of the training forward pass until the end of the block."""
        self._kept = kept = TrainingTensors()
        try:
            yield kept
        finally:
            self._kept = None
            kept.outputs = kept.obs_embeddings = None

    def forward(self, obs_embeddings_or_act_tokens: dict[str, Any], *args: Any, **kwargs: Any) -> WorldModelOutput:
        """Run the parent's forward pass for the selected task, with its arguments and result."""
        outputs = super().forward(obs_embeddings_or_act_tokens, *args, **kwargs)
        if self._kept is not None:
            self._kept.outputs = outputs
            self._kept.obs_embeddings = obs_embeddings_or_act_tokens['obs_embeddings_and_act_tokens'][0]
        return outputs

    def _transformer_pass(self, sequences: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Add the task embedding to every token, (B, n, E) + (E,), and run the transformer."""
        embedding = self.task_embedding.weight[self.selection.task_id]
        return super()._transformer_pass(sequences + embedding, *args, **kwargs)

    # --- inference --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def forward_initial_inference(
        self, obs_act_dict: dict[str, Any], start_pos: Any = 0
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Infer value and policy at the roots of a search, or along sampled sequences.

        Arguments:
            obs_act_dict: ``'obs'``, ``'action'`` and ``'current_obs'``. With ``'current_obs'`` (n, *shape): the
                observations to act on, after the action (n integers, -1 at the first step of an episode) that was
                taken on ``'obs'`` (n, *shape). If it is None: sequences, see the parent.
            start_pos: first time step of each row; only for the parent.

        Returns:
            Transformer output, latent states (n, 1, E), and reward, policy and value logits (n, ., S).
        """
        self.inference.nodes.clear()
        if obs_act_dict['current_obs'] is None:
            return super().forward_initial_inference(obs_act_dict, start_pos)
        latent_states = self.tokenizer.encode_to_obs_embeddings(obs_act_dict['current_obs'])
        count = len(latent_states)
        environment_ids = self.inference.environment_ids
        if environment_ids is None:
            environment_ids = range(count)
        actions = [int(action) for action in obs_act_dict['action']]

        contexts: list[Context | None] = [
            Context(latent_states[0], 0) if action == -1 else self.inference.contexts.get(int(environment_id))
            for environment_id, action in zip(environment_ids, actions, strict=True)
        ]
        missing = [row for row, context in enumerate(contexts) if context is None]
        if missing:
            # The history was computed with older weights and dropped: start again from the previous observation.
            last = self.tokenizer.encode_to_obs_embeddings(obs_act_dict['obs'][missing])
            for row, context in zip(missing, self._begin(last), strict=True):
                contexts[row] = context

        outputs = RowCollector(count)
        known = [context for context in contexts if context is not None]
        for rows in rows_of_equal_size(known):
            keys_values = self._pack(known, rows)
            if known[rows[0]].size:
                tokens = torch.tensor([[actions[row]] for row in rows], device=latent_states.device)
                self.forward({'act_tokens': tokens}, past_keys_values=keys_values, is_init_infer=True)
            step = self.forward(
                {'obs_embeddings': latent_states[rows]}, past_keys_values=keys_values, is_init_infer=True
            )
            outputs.put(rows, self._unpack(keys_values), step.output_sequence, step.logits_policy, step.logits_value)
        sequence, policy, value = outputs.tensors()
        self.inference.contexts.update(zip((int(i) for i in environment_ids), outputs.contexts, strict=True))
        self.inference.nodes.add(latent_states.cpu().numpy(), outputs.contexts)
        return sequence, latent_states, value[:, :0], policy, value

    @torch.no_grad()
    def forward_recurrent_inference(
        self,
        state_action_history: Sequence[tuple[NDArray[Any], Tensor]],
        simulation_index: int = 0,
        search_depth: Sequence[int] = (),
        start_pos: Any = 0,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Expand one node per tree.

        Arguments:
            state_action_history: its last entry holds the latent states (n, 1, E) of the parent nodes and the actions
                (n,) to take.
            simulation_index: not used.
            search_depth: not used.
            start_pos: not used.

        Returns:
            Transformer output, next latent states (n, 1, E), and reward, policy and value logits (n, 1, .).
        """
        latent_states, actions = state_action_history[-1]
        contexts = self.inference.nodes.find(latent_states)
        missing = [row for row, context in enumerate(contexts) if context is None]
        if missing:
            # Roots of a reanalysing search: their context is just this one state.
            begun = self._begin(torch.from_numpy(latent_states[missing]).to(self.device))
            for row, context in zip(missing, begun, strict=True):
                contexts[row] = context
        outputs = RowCollector(len(latent_states))
        known = [context for context in contexts if context is not None]
        for rows in rows_of_equal_size(known):
            keys_values = self._pack(known, rows)
            taken = self.forward(
                {'act_tokens': actions[rows].reshape(-1, 1)}, past_keys_values=keys_values, is_init_infer=True
            )
            latent = taken.logits_observations
            reached = self.forward({'obs_embeddings': latent}, past_keys_values=keys_values, is_init_infer=True)
            outputs.put(
                rows,
                self._unpack(keys_values),
                reached.output_sequence,
                latent,
                taken.logits_rewards,
                reached.logits_policy,
                reached.logits_value,
            )
        sequence, next_latent, reward, policy, value = outputs.tensors()
        self.inference.nodes.add(next_latent.cpu().numpy(), outputs.contexts)
        return sequence, next_latent, reward, policy, value

    def _begin(self, latent_states: Tensor) -> list[Context]:
        """Return one context for each latent state (n, 1, E), holding only that state."""
        keys_values = self.transformer.generate_empty_keys_values(len(latent_states), self.context_length)
        self.forward({'obs_embeddings': latent_states}, past_keys_values=keys_values, is_init_infer=True)
        return self._unpack(keys_values)

    def _pack(self, contexts: Sequence[Context], rows: Sequence[int]) -> Any:
        empty = self.transformer.generate_empty_keys_values(len(rows), self.context_length)
        return pack([contexts[row] for row in rows], empty)

    def _unpack(self, keys_values: Any) -> list[Context]:
        """Return the contexts; full ones lose their first time step, to make room for another.

        The rest moves two positions to the front. LightZero corrects keys and values by the difference of the position
        embeddings alone; this is an approximation, because they pass a LayerNorm first.
        """
        size = keys_values.size
        contexts = unpack(keys_values)
        if size < self.context_length - 1:
            return contexts
        kept = slice(2, self.context_length - 1)
        shift = self._position_shift()
        for context in contexts:
            moved = context.keys_values[..., kept, :] + shift
            context.size = moved.shape[-2]
            context.keys_values[..., : context.size, :] = moved
        return contexts

    def _position_shift(self) -> Tensor:
        """Return the correction of keys and values that move to the front: (L, 2, H, C - 3, D)."""
        if not self._position_shift_is_current:
            self.precompute_pos_emb_diff_kv()
            self._position_shift_is_current = True
        between = (2, self.context_length - 1)
        return torch.stack(
            [
                torch.cat((keys[between], values[between]))
                for keys, values in zip(self.pos_emb_diff_k, self.pos_emb_diff_v, strict=True)
            ]
        )

    def clear_caches(self) -> None:
        """Clear everything that depends on the weights; call it when they have changed."""
        self._position_shift_is_current = False
        self.inference.clear()
