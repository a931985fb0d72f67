"""Sections of the metric reference, and figures that several metrics share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from ding_normmon.core.common_figures import MONITOR_SECTION
from ding_normmon.core.figure import Chart, Figure

__all__ = [
    'BROKEN_CHART',
    'INVARIANTS_SECTION',
    'NONFINITE_CHART',
    'NONFINITE_LOCAL',
    'NONFINITE_NORMS',
    'NO_GRADIENT',
    'PARAMETERS_SECTION',
    'PLASTICITY_SECTION',
    'SECTIONS',
    'TASKS_SECTION',
    'Section',
]

INVARIANTS_SECTION = 'What must hold'
PARAMETERS_SECTION = 'Parameters and gradients'
PLASTICITY_SECTION = 'Plasticity'
TASKS_SECTION = 'What tasks do to each other'


@dataclass(frozen=True)
class Section:
    """A heading of the metric reference.

    Arguments:
        title: the heading; figures name it as theirs.
        introduction: Markdown above the table.
        remarks: Markdown below it.
    """

    title: str
    introduction: str = ''
    remarks: str = ''


SECTIONS: tuple[Section, ...] = (
    Section(
        PARAMETERS_SECTION,
        remarks="""\
Groups: `encoder` (with one encoder per task: `encoder_task{i}`), `transformer`, `head_value_task{i}`,
`head_reward_task{i}`, `head_policy_task{i}`, `head_observation_task{i}`, `task_embedding`, `action_embedding`,
`position_embedding`, those of `module_groups`, and `other` for every parameter that none of them claims. Heads that all
tasks share (`share_head=True`) have no task suffix. Policies that are not of this family have the model's top-level
modules as groups ([policies.md](policies.md)); where an optimizer rests in a step, the groups it holds have no
`grad/`.""",
    ),
    Section(
        'Signals',
        introduction="""\
With `_task{i}` the figures of one task, without it those of all: one task leaves the others where they come apart.""",
        remarks="""\
Every `std` is unbiased, as `torch.std`, and absent for fewer than two values.""",
    ),
    Section(
        PLASTICITY_SECTION,
        introduction="""\
With `preset='multitask'` or `'full'`, every `plasticity_freq` iterations, from the passes that the step does anyway.
Figures over all tasks come from sums over all tasks of all ranks, never from averages of ratios; they are absent from a
record in which a rank has not measured them.""",
    ),
    Section(
        'Clipping',
    ),
    Section(
        'Learner steps',
    ),
    Section(
        'Losses of the policy',
    ),
    Section(
        TASKS_SECTION,
        introduction="""\
With `preset='multitask'` or `'full'`; for several tasks only. `{group}` is a group that all tasks share: `encoder`,
`transformer`, `embeddings` (task, action and position embedding together), `transformer_block{n}` with
`conflict_blocks=True`, and any shared one of `module_groups`. Gradients are those of the tasks' losses as they enter
the training loss, weights included. Cosines come of sketches (`ding_normmon/metrics/maths/sketch.py`), norms are
exact.""",
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
    ),
    Section(
        'Learner steps',
        introduction='Seen from outside, in whatever trains the model; absent if it cannot be seen.',
    ),
    Section(
        INVARIANTS_SECTION,
        introduction="""\
Figures under `broken/` are there only in records in which something that must hold does not; [Diagnosis](diagnosis.md)
says what becomes of them. What they compare are sums of bit patterns, so there is no threshold.""",
    ),
    Section(
        MONITOR_SECTION,
        remarks="""\
`monitor/*` and `agreement/*` are about ranks by definition and differ between layouts of tasks over ranks; everything
else does not.""",
    ),
)
"""In the order of the page; other sections that figures name come after them."""

BROKEN_CHART = Chart('Health of the record', 'What must hold and does not')

NONFINITE_CHART = Chart('Health of the record', 'Entries that are not finite')

_figure = partial(Figure, section=MONITOR_SECTION, chart=NONFINITE_CHART)

NONFINITE_NORMS = _figure(
    'monitor/nonfinite/{norm,grad}/{group}',
    'NaN and infinite entries of parameters or gradients; the norm is that of the finite part',
    'count',
    bad_value='the run is breaking here',
)

NONFINITE_LOCAL = _figure(
    'monitor/nonfinite/{grad_local,grad_synced}/{group}',
    'the same of the gradients of policies that clip before they synchronise',
    'count',
    bad_value='as above',
)

NO_GRADIENT = _figure(
    'monitor/no_gradient/{group}',
    '1 where no parameter of the group has a gradient; `grad/{group}` is absent then',
    'flag',
    bad_value='a head that is not trained',
    chart=Chart('Health of the record', 'Modules without gradient'),
)
