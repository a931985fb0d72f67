"""Dormant units and ranks of representations."""

from __future__ import annotations

from ding_normmon.metrics.reference.metric import Figure, Section

__all__ = ['SECTION']

SECTION = Section(
    title='Plasticity',
    introduction="""\
With `preset='multitask'` or `'full'`, every `plasticity_freq` iterations, from the passes that the step does anyway.
Figures over all tasks come from sums over all tasks of all ranks, never from averages of ratios; they are absent from a
record in which a rank has not measured them.""",
    metrics=(
        Figure(
            pattern='plasticity/{group}[_task{i}]/dormant_tau{t}',
            definition=(
                "share of the units of a shared group's nonlinearities (of its linear layers where it has none as"
                ' modules) with E|h_i| ≤ t · mean over the layer, for each t of `dormant_taus` ([Sokar et al. '
                '2023](https://arxiv.org/abs/2302.12902), eq. 1); channels are the units of a convolution'
            ),
            unit='share',
            hook_point='forward pass, `publish`',
            bad_value='growing: capacity that no task uses any more',
        ),
        Figure(
            pattern='plasticity/{group}[_task{i}]/gradient_dormant_tau{t}',
            definition=(
                'the same with |∂L/∂h_i| in the place of |h_i| (after [GraMa, 2025](https://arxiv.org/abs/2505.24061))'
            ),
            unit='share',
            hook_point='`backward_end`',
            bad_value='units that no longer learn, however active',
        ),
        Figure(
            pattern='plasticity/{group}/dormant_overlap_tasks',
            definition=(
                'mean over pairs of tasks of the Jaccard index of their dormant sets, at the smallest positive t;'
                ' the pairs are a matrix of the record'
            ),
            unit='share',
            bad_value='near 1: dead for all; near 0: tasks have divided the units among them',
        ),
        Figure(
            pattern='plasticity/{group}[_task{i}]/dormant_overlap_time',
            definition=(
                'Jaccard index of the dormant sets of this record and of the one measured before; absent where '
                'neither has any'
            ),
            unit='share',
            bad_value='near 1: dormant units do not wake up',
        ),
        Figure(
            pattern='plasticity/{x_token,embeddings/obs}[_task{i}]/effective_rank',
            definition=(
                'exp of the entropy of the normalised singular values of all valid vectors, not centred ([Roy & '
                'Vetterli 2007](https://ieeexplore.ieee.org/document/7098875)); at most the number of vectors'
            ),
            unit='dimensions',
            hook_point='`publish`',
            bad_value='falling: the representation collapses',
        ),
        Figure(
            pattern='plasticity/{x_token,embeddings/obs}[_task{i}]/stable_rank',
            definition='Σσ² / σ₁²',
            unit='dimensions',
            hook_point='`publish`',
            bad_value='near 1: one direction carries everything',
        ),
        Figure(
            pattern='plasticity/{x_token,embeddings/obs}[_task{i}]/feature_rank',
            definition=(
                'how many of the largest singular values make up 99% of their sum ([Kumar et al. '
                '2021](https://arxiv.org/abs/2010.14498))'
            ),
            unit='dimensions',
            hook_point='`publish`',
            bad_value='falling: as above',
        ),
        Figure(
            pattern='plasticity/{x_token,embeddings/obs}[_task{i}]/rank_error',
            definition=(
                'relative error to expect of singular values, √(effective rank / dimensions); only where vectors '
                'were projected to fewer dimensions (over 256 features, or `memory_budget`)'
            ),
            unit='ratio',
            hook_point='`publish`',
            bad_value='over 0.3: raise `memory_budget`',
        ),
        Figure(
            pattern='plasticity/{group}[_task{i}]/weight_rms',
            definition="root mean square of the group's weights, read off the parameter norms",
            unit='weight',
            hook_point='`forward_end`',
            bad_value='steady growth goes with a loss of plasticity',
        ),
    ),
)
