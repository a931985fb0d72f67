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
tasks share (`share_head=True`) have no task suffix. Other policies have the model's top-level modules as groups
([policies.md](policies.md)). In a step in which an optimizer rests, its groups have no `grad/`.""",
    ),
    Section(
        'Signals',
        introduction="""\
With `_task{i}` these are the figures of one task, without it those of all tasks together.""",
        remarks="""\
Every `std` is unbiased, as `torch.std`, and absent for fewer than two values.""",
    ),
    Section(
        PLASTICITY_SECTION,
        introduction="""\
With `preset='multitask'` or `'full'`, every `plasticity_freq` iterations. They need no forward or backward pass of
their own. Figures over all tasks come from sums over all tasks of all ranks, never from averages of ratios. They are
absent from a record in which a rank has not measured them.""",
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
`conflict_blocks=True`, and any shared one of `module_groups`. Gradients are those of the tasks' losses with the weights
that they have in the training loss. Cosines are computed from sketches (`ding_normmon/metrics/maths/sketch.py`), norms
are exact.""",
        remarks="""\
Matrices, in the record (and as pictures in TensorBoard, drawn for at most 1% of the time):
`conflict/{group}/cosine` and `conflict/{group}/standard_error`, with task ids on their axes. The note
`conflict/{group}` names the pair with the smallest cosine.

`agreement/*`, and cosines with `conflict_exact='rank'`, depend on which tasks share a rank. Everything else is the same
in every layout. `agreement/*` needs a policy that fires `local_backward_end`. `DistributedDataParallel` averages during
the backward pass, so there is none with it.

There is no `conflict/*`

- where the forward pass uses reentrant checkpoints (`use_reentrant=True`), because the parameters in them get no
  gradient of one task;
- where the gradient is not made of the losses that the policy gives, as with several backward passes that depend on
  each other. The first measured step compares the two, and this is logged once.

[1] Yu et al., Gradient surgery for multi-task learning (PCGrad), NeurIPS 2020. [2] Charikar, Chen & Farach-Colton,
Finding frequent items in data streams, ICALP 2002. [3] Li, Hastie & Church, Improving random projections using marginal
information, COLT 2006. [4] Hill, Diversity and evenness, Ecology 54(2), 1973. [5] The rule of thumb of 1e-3 is
Karpathy's, CS231n.""",
    ),
    Section(
        'Learner steps',
        introduction='Seen from outside, in any loop that trains the model. What cannot be seen is absent.',
    ),
    Section(
        INVARIANTS_SECTION,
        introduction="""\
Figures under `broken/` are there only in records in which something that must hold does not hold.
[Diagnosis](diagnosis.md) says what follows. They compare sums of bit patterns, so there is no threshold.""",
    ),
    Section(
        MONITOR_SECTION,
        remarks="""\
`monitor/*` and `agreement/*` are about ranks, and differ between layouts of tasks over ranks. Nothing else does.""",
    ),
)
"""In the order of the page; other sections that figures name come after them."""

BROKEN_CHART = Chart('Health of the record', 'What must hold and does not')

NONFINITE_CHART = Chart('Health of the record', 'Entries that are not finite')

_figure = partial(Figure, section=MONITOR_SECTION, chart=NONFINITE_CHART)

NONFINITE_NORMS = _figure(
    'monitor/nonfinite/{norm,grad}/{group}',
    'NaN and infinite entries of parameters or gradients; the norm is that of the finite entries',
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
