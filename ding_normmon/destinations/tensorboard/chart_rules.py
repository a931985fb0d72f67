"""The charts of a dashboard: which figures go together, in the order in which one looks at them."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ['RULES', 'TASK_RULES', 'Rule']


@dataclass(frozen=True)
class Rule:
    """Figures that share a chart; the first rule that fits a figure counts.

    Arguments:
        category: heading of the category.
        title: of the chart; its placeholders are named groups of the expression. Different values, different charts.
        expression: of the figures' names, in which ``_task{i}`` stands for any task.
    """

    category: str
    title: str
    expression: re.Pattern[str]


_TASK = r'_task\{i\}'
_HEADINGS: dict[str, tuple[tuple[str, str], ...]] = {
    'Losses and returns': (
        ('Returns in evaluation', r'eval/.+/return'),
        ('Returns in training', r'collect/.+/return'),
        ('Mean return in evaluation', r'(?:basic|evaluator_iter)/.*(?:return|reward)_mean.*'),
        ('Lengths of episodes in training', r'collect/.+/episode_length'),
        ('{loss}', rf'noreduce_(?P<loss>.+){_TASK}'),
    ),
    'Shared modules': (
        ('Gradient norm of the whole model', r'grad/model/_total_norm'),
        ('Norm of the whole model', r'norm/model/_total_norm'),
        ('Gradient norms of shared modules', r'grad/[^/{}]+/_total_norm'),
        ('Norms of shared modules', r'norm/[^/{}]+/_total_norm'),
        ('{group}: gradient norms on the ranks, before they clip', r'grad_local/(?P<group>[^/]+)/(?:mean|min|max)'),
        ('Gradient norms of shared modules, synchronised and clipped', r'grad_synced/[^/]+/_total_norm'),
    ),
    'Heads across tasks': (
        ('{head}: gradient norm', rf'grad/(?P<head>[^/]+){_TASK}/_total_norm'),
        ('{head}: norm', rf'norm/(?P<head>[^/]+){_TASK}/_total_norm'),
        ('{head}: gradient norm, mean and std over tasks', r'grad/(?P<head>[^/]+)_all_tasks/(?:mean|std)'),
        ('{head}: norm, mean and std over tasks', r'norm/(?P<head>[^/]+)_all_tasks/(?:mean|std)'),
    ),
    'Logits': (
        ('{head} logits: {statistic}', rf'logits/(?P<head>[^/]+){_TASK}/(?P<statistic>abs_max)'),
        ('{head} logits: {statistic}', rf'logits/(?P<head>[^/]+){_TASK}/(?P<statistic>[^/]+)'),
        ('{head} logits of all tasks', r'logits/(?P<head>[^/{}]+)/[^/]+'),
        ('{head}: {statistic}', rf'outputs/(?P<head>.+){_TASK}/(?P<statistic>[^/]+)'),
        ('{head}', r'outputs/(?P<head>[^{}]+)/[^/]+'),
    ),
    'Embeddings': (
        ('{signal}: {statistic}', rf'embeddings/(?P<signal>.+){_TASK}/(?P<statistic>[^/]+)'),
        ('{signal} of all tasks', r'embeddings/(?P<signal>[^{}]+)/[^/]+'),
        ('x_token: norm_{statistic}', rf'norm/x_token{_TASK}/(?P<statistic>[^/]+)'),
        ('x_token of all tasks', r'norm/x_token/[^/]+'),
    ),
    'Conflict': (
        ('Share of pairs of tasks in conflict', r'conflict/[^/{}]+/rate'),
        ('{group}: cosines of the gradients of pairs', r'conflict/(?P<group>[^/{}]+)/(?:mean_cosine|min_cosine)'),
        ('{group}: mean cosine with other tasks', rf'conflict/(?P<group>[^/]+){_TASK}/mean_cosine'),
        ('{group}: share of the gradient norms', rf'conflict/(?P<group>[^/]+){_TASK}/share'),
        ('Largest over smallest gradient norm of a task', r'conflict/[^/{}]+/imbalance'),
        ('Effective number of tasks', r'conflict/[^/{}]+/effective_tasks'),
        ('Standard errors of the cosines', r'conflict/[^/{}]+/standard_error'),
        (
            '{group}: {figure} of the terms of the loss',
            rf'conflict/(?P<group>[^/]+){_TASK}/[^/]+/(?P<figure>norm|share|cosine)',
        ),
        ('Agreement between ranks: cosines', r'agreement/[^/]+/cosine'),
        ('Agreement between ranks: inner products', r'agreement/[^/]+/mean_dot'),
        ('Agreement between ranks: ranks with a gradient', r'agreement/[^/]+/ranks'),
    ),
    'Updates': (
        ('Steps of shared modules relative to the weights', r'update/[^/{}]+/relative'),
        ('{group}: step relative to the weights', rf'update/(?P<group>[^/]+){_TASK}/relative'),
        ('{group}: cosine of the step with the gradient', rf'update/(?P<group>[^/]+){_TASK}/cosine'),
        ('Clipping: coefficients', r'clip/[^/{}]+/coefficient(?:_min|_max)?'),
        ('Clipping: share of the steps', r'clip/[^/{}]+/fraction'),
        ('{group}: weight that clipping leaves', rf'clip/(?P<group>[^/]+){_TASK}/weight'),
    ),
    'Plasticity': (
        ('Dormant units', r'plasticity/[^{}]+/dormant_tau[^/]+'),
        ('Units without gradient', r'plasticity/[^{}]+/gradient_dormant_tau[^/]+'),
        ('{rank} of the representation', r'plasticity/[^{}]+/(?P<rank>(?:effective|stable|feature)_rank)'),
        ('Root mean square of the weights', r'plasticity/[^{}]+/weight_rms'),
        ('{figure}', r'plasticity/[^{}]+/(?P<figure>[^/]+)'),
        ('{group}: {figure}', rf'plasticity/(?P<group>.+){_TASK}/(?P<figure>.+)'),
    ),
    'Cost': (
        ('Learner-thread milliseconds of a record', r'monitor/cost/ms'),
        ('Learner-thread milliseconds of the metrics', r'monitor/cost/.+/ms'),
        ('Extra backward passes', r'monitor/cost/.+/extra_backward'),
        ('Bytes', r'monitor/cost/(?:.+/)?bytes'),
        ('Messages of all ranks', r'monitor/cost/messages'),
    ),
    'Health of the record': (
        ('Entries that are not finite', r'monitor/nonfinite/.+'),
        ('Modules without gradient', r'monitor/no_gradient/.+'),
        ('Parameters without gradient', r'monitor/without_gradient/.+'),
        ('Lost', r'monitor/lost/.+'),
        ('Further signs', r'monitor/.+'),
        ('Trainable parameters', r'parameters/.+'),
    ),
    'Other figures': (
        ('{head}: norms of the parameters', rf'norm/(?P<head>[^/]+){_TASK}/.+'),
        ('{head}: norms of the parameters', r'norm/(?P<head>[^/]+)/.+'),
        ('{head}: gradient norms of the parameters', rf'grad/(?P<head>[^/]+){_TASK}/.+'),
        ('{head}: gradient norms of the parameters', r'grad/(?P<head>[^/]+)/.+'),
        ('{figure}', rf'(?P<figure>.+{_TASK}.*)'),
        ('{family}', r'(?P<family>.+)/[^/]+'),
        ('{figure}', r'(?P<figure>.+)'),
    ),
}

RULES: tuple[Rule, ...] = tuple(
    Rule(category, title, re.compile(expression))
    for category, rules in _HEADINGS.items()
    for title, expression in rules
)
"""In the order of the dashboard; the last one fits everything."""

TASK_RULES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (title, re.compile(expression))
    for title, expression in (
        ('Losses', r'noreduce_.*_loss_task\d+'),
        ('Gradient norms of its modules', r'grad/[^/]+/_total_norm'),
        ('Norms of its modules', r'norm/[^/]+/_total_norm'),
        ('Conflict: mean cosine of its gradients with those of other tasks', r'conflict/[^/]+/mean_cosine'),
        ('Conflict: its share of the gradient norms', r'conflict/[^/]+/share'),
        ('Updates: cosine of the step with its gradient', r'update/[^/]+/cosine'),
        ('Updates: steps of its modules relative to the weights', r'update/[^/]+/relative'),
        ('Plasticity: dormant units', r'plasticity/[^/]+/dormant_tau[^/]*'),
        ('Plasticity: units without gradient', r'plasticity/[^/]+/gradient_dormant_tau[^/]*'),
        ('Plasticity: ranks of the representation', r'plasticity/.+/(?:effective|stable|feature)_rank'),
    )
)
"""Title and names of the charts of one task."""
