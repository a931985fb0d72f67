"""Gradient conflict, updates and agreement."""

from __future__ import annotations

from ding_normmon.metrics.reference.metric import Figure, Section

__all__ = ['SECTION']

SECTION = Section(
    title='What tasks do to each other',
    introduction="""\
With `preset='multitask'` or `'full'`; for several tasks only. `{group}` is a group that all tasks share: `encoder`,
`transformer`, `embeddings` (task, action and position embedding together), `transformer_block{n}` with
`conflict_blocks=True`, and any shared one of `module_groups`. Gradients are those of the tasks' losses as they enter
the training loss, weights included. Cosines come of sketches (`ding_normmon/metrics/maths/sketch.py`), norms are
exact.""",
    metrics=(
        Figure(
            pattern='conflict/{group}/rate',
            definition='share of the pairs of tasks whose gradients have a cosine below −2 standard errors [1]',
            unit='share',
            hook_point='`forward_end`',
            bad_value="near 1 for long: tasks undo each other's steps; a gradient correction or a larger shared part",
        ),
        Figure(
            pattern='conflict/{group}/{min_cosine,mean_cosine}',
            definition='of all pairs',
            unit='cosine',
            hook_point='`forward_end`',
            bad_value='mean below 0',
        ),
        Figure(
            pattern='conflict/{group}/standard_error',
            definition=(
                'largest standard error of a cosine: (1−c²)/√((1+c²)k) for sketches of k numbers [2] [3]; 1e-6 '
                'where nothing is sketched'
            ),
            unit='cosine',
            hook_point='`forward_end`',
            bad_value='large: raise `sketch_size`',
        ),
        Figure(
            pattern='conflict/{group}/imbalance',
            definition="largest norm of a task's gradient over the smallest that is not 0",
            unit='ratio',
            hook_point='`forward_end`',
            bad_value='above 10 for long: task weights',
        ),
        Figure(
            pattern='conflict/{group}/effective_tasks',
            definition=(
                "1/Σ share²: how many tasks of equal norms would be spread like these (Hill's number of order 2 [4])"
            ),
            unit='tasks',
            hook_point='`forward_end`',
            bad_value='near 1: one task dominates',
        ),
        Figure(
            pattern='conflict/{group}_task{i}/share',
            definition="norm of the task's gradient over the sum of all tasks' norms",
            unit='share',
            hook_point='`forward_end`',
            bad_value='near 1, or near 0: this task dominates, or is not heard',
        ),
        Figure(
            pattern='conflict/{group}_task{i}/mean_cosine',
            definition='mean cosine with the other tasks',
            unit='cosine',
            hook_point='`forward_end`',
            bad_value='below 0: the others work against it',
        ),
        Figure(
            pattern='conflict/{group}_task{i}/{loss}/{norm,share,cosine}',
            definition=(
                "norm of the gradient of one weighted term of the task's loss, its share of the terms' norms, its"
                ' cosine with all terms together (`conflict_by_loss=True`)'
            ),
            unit='loss / weight, share, cosine',
            hook_point='`forward_end`',
            bad_value='one term drives what is shared, or works against the others',
        ),
        Figure(
            pattern='update/{group}/relative',
            definition=(
                'L2 norm of the step over that of the weights before it; every group, `{group}` also '
                '`head_value_task{i}` and so on; an estimate with an error of 1/√(2k) where `memory_budget` holds'
                ' no copy of the weights'
            ),
            unit='ratio',
            hook_point='`backward_end`, `step_end`',
            bad_value='above 1e-2: steps too large; below 1e-6: nothing is learnt [5]',
        ),
        Figure(
            pattern='update/{group}_task{i}/cosine',
            definition=(
                "between minus the step and the task's gradient: after clipping and the optimizer's preconditioning"
            ),
            unit='cosine',
            hook_point='`step_end`',
            bad_value='below 0: the step makes this task worse',
        ),
        Figure(
            pattern='agreement/{group}/mean_dot',
            definition='mean inner product of the gradients of two ranks: (‖Σg‖² − Σ‖g‖²)/(R(R−1))',
            unit='(loss / weight)²',
            hook_point='`local_backward_end`',
            bad_value='below 0: ranks undo each other',
        ),
        Figure(
            pattern='agreement/{group}/cosine',
            definition=(
                "`mean_dot` over the mean squared norm of the ranks' gradients: 1 if all are equal, −1/(R−1) if "
                'they cancel'
            ),
            unit='ratio',
            hook_point='`local_backward_end`',
            bad_value='as above',
        ),
        Figure(
            pattern='agreement/{group}/ranks',
            definition='R, the ranks that have a gradient on the group; below 2 there is no figure',
            unit='count',
            hook_point='`local_backward_end`',
        ),
    ),
    remarks="""\
Matrices, in the record (and as pictures in TensorBoard, drawn for at most 1% of the time):
`conflict/{group}/cosine` and `conflict/{group}/standard_error`, with task ids on their axes. Notes: `conflict/{group}`,
the pair with the smallest cosine by name. `agreement/*` depends on which tasks share a rank, and so do cosines with
`conflict_exact='rank'`; everything else is the same in every layout. A policy whose forward pass uses reentrant
checkpoints (`use_reentrant=True`) has no `conflict/*`: parameters inside them have no gradient of one task. Nor has one
whose gradient is not made of the losses it gives (several backward passes that depend on each other): the first
measured step compares the two, and says so once. `agreement/*` needs a policy that fires `local_backward_end`, so under
`DistributedDataParallel`, which averages while it goes backward, there is none.

[1] Yu et al., Gradient surgery for multi-task learning (PCGrad), NeurIPS 2020. [2] Charikar, Chen & Farach-Colton,
Finding frequent items in data streams, ICALP 2002. [3] Li, Hastie & Church, Improving random projections using marginal
information, COLT 2006. [4] Hill, Diversity and evenness, Ecology 54(2), 1973. [5] The rule of thumb of 1e-3 is
Karpathy's, CS231n.""",
)
