"""Statistics of published tensors."""

from __future__ import annotations

from ding_normmon.metrics.reference.metric import Figure, Section

__all__ = ['SECTION']

SECTION = Section(
    title='Signals',
    introduction="""\
With `_task{i}` the figures of one task, without it those of all: one task leaves the others where they come apart.""",
    metrics=(
        Figure(
            pattern='norm/x_token[_task{i}]/{mean,std,max,min}',
            definition="L2 norms of the transformer's output tokens",
            unit='activation',
            hook_point='`publish`',
            bad_value='collapse (std near 0) or growth of the representation',
        ),
        Figure(
            pattern='logits/{value,policy,reward}[_task{i}]/{mean,std,max,min,abs_max}',
            definition="entries of the head's output; policy: the task's own action space",
            unit='logit',
            hook_point='`publish`',
            bad_value='`abs_max` running away: a policy that has become certain, or a saturated value support',
        ),
        Figure(
            pattern='embeddings/obs[_task{i}]/{norm_mean,norm_std,norm_max,norm_min}',
            definition="L2 norms of the encoder's outputs",
            unit='activation',
            hook_point='`publish`',
            bad_value='drift or collapse of the encoder',
        ),
        Figure(
            pattern='data/{reward,value_target}[_task{i}]/{mean,std,max,min,abs_max}',
            definition='rewards and value targets of the valid steps of the batch, as they come from the replay buffer',
            unit='reward',
            hook_point='`publish`',
            bad_value='a jump: the reward scale of the task has changed; always 0: it has met no reward',
        ),
        Figure(
            pattern='data/observation_change[_task{i}]/{mean,std,max,min,abs_max}',
            definition='mean absolute difference of successive observations, of up to eight sequences of the batch',
            unit='observation',
            hook_point='`publish`',
            bad_value='falling to 0: the environment shows the same picture for ever',
        ),
        Figure(
            pattern='outputs/{head}[/{key}]/{mean,std,max,min,abs_max}',
            definition='entries of what a head of a DI-engine policy returns, in the first pass with a graph',
            unit='its own',
            hook_point='`publish`',
        ),
        Figure(
            pattern='{signal}[_task{i}]/{mean,std,max,min,abs_max}',
            definition='any other published tensor, element by element',
            unit='its own',
            hook_point='`publish`',
        ),
    ),
    remarks="""\
Every `std` is unbiased, as `torch.std`, and absent for fewer than two values.""",
)
