"""Parameter and gradient norms."""

from __future__ import annotations

from ding_normmon.metrics.reference.metric import Figure, Section

__all__ = ['SECTION']

SECTION = Section(
    title='Parameters and gradients',
    metrics=(
        Figure(
            pattern='norm/{group}/_total_norm',
            definition='L2 norm of all parameters of the group, frozen ones too',
            unit='weight',
            hook_point='`forward_end`',
            bad_value='steady growth: weight decay too small, or a loss that pushes one task',
        ),
        Figure(
            pattern='norm/model/_total_norm',
            definition='L2 norm of all parameters; its square is the sum of the squared group norms',
            unit='weight',
            hook_point='`forward_end`',
            bad_value='as above',
        ),
        Figure(
            pattern='norm/{head}_all_tasks/{mean,std}',
            definition='mean and unbiased standard deviation over tasks of the norms above',
            unit='weight',
            hook_point='`forward_end`',
            bad_value='large std: tasks drift apart',
        ),
        Figure(
            pattern='norm/{group}/{path}',
            definition="L2 norm of one parameter (`detail='parameter'`)",
            unit='weight',
            hook_point='`forward_end`',
        ),
        Figure(
            pattern='grad/{group}/_total_norm',
            definition="L2 norm of the group's gradients, before clipping",
            unit='loss / weight',
            hook_point='`backward_end`',
            bad_value='explosion, vanishing, one task above the others',
        ),
        Figure(
            pattern='grad/model/_total_norm',
            definition='L2 norm of all gradients; its square is the sum of the squared group norms',
            unit='loss / weight',
            hook_point='`backward_end`',
        ),
        Figure(
            pattern='grad/{head}_all_tasks/{mean,std}',
            definition='over the tasks that have a gradient in this step',
            unit='loss / weight',
            hook_point='`backward_end`',
            bad_value='large std: imbalance between tasks',
        ),
        Figure(
            pattern='grad/{group}/{path}',
            definition="of one parameter (`detail='parameter'`)",
            unit='loss / weight',
            hook_point='`backward_end`',
        ),
        Figure(
            pattern='grad_local/{group}/{mean,min,max}',
            definition=(
                "policies that clip before they synchronise, several ranks: L2 norm of a shared group's gradient "
                'on each rank before that rank clips, over the ranks; absent if a rank is missing'
            ),
            unit='loss / weight',
            hook_point='`backward_end`',
            bad_value="max far above min: one rank's tasks dominate",
        ),
        Figure(
            pattern='grad_synced/{group}/_total_norm',
            definition=(
                "of the same policies: the shared group's gradient as the optimizer used it, averaged and hence clipped"
            ),
            unit='loss / weight',
            hook_point='`step_end`',
            bad_value='far below the mean of `grad_local`: clipping, or conflict between ranks, eats the gradient',
        ),
        Figure(
            pattern='parameters/model/trainable',
            definition='elements with `requires_grad`',
            unit='count',
            hook_point='`forward_end`',
        ),
        Figure(
            pattern='parameters/{group}/trainable',
            definition='the same for a group, only where some of it is frozen',
            unit='count',
            hook_point='`forward_end`',
            bad_value='something is frozen by mistake',
        ),
    ),
    remarks="""\
Groups: `encoder` (with one encoder per task: `encoder_task{i}`), `transformer`, `head_value_task{i}`,
`head_reward_task{i}`, `head_policy_task{i}`, `head_observation_task{i}`, `task_embedding`, `action_embedding`,
`position_embedding`, those of `module_groups`, and `other` for every parameter that none of them claims. Heads that all
tasks share (`share_head=True`) have no task suffix. Policies that are not of this family have the model's top-level
modules as groups ([policies.md](policies.md)); where an optimizer rests in a step, the groups it holds have no
`grad/`.""",
)
