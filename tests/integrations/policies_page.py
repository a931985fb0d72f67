"""Write docs/policies.md: what is found on each policy, asked of the policies themselves.

    python -m tests.integrations.policies_page

Every policy that the tests measure is built, attached to, run for two learner steps and described. A test compares the
page with what comes out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ding_normmon import attach
from ding_normmon.integrations.description import Description
from tests.integrations import small_policies
from tests.integrations.ding_engine import policies as ding_policies
from tests.integrations.lightzero import multitask
from tests.integrations.lightzero import policies as lightzero
from tests.unizero.builders import random_batch, tiny_policy

PAGE = Path(__file__).resolve().parent.parent.parent / 'docs' / 'policies.md'
HEAD = """# Policies

This page lists what `ding_normmon.attach(policy, cfg)` finds on a policy. `NormMonitor` and `NormMonitorHook` are built
on it and find the same. The page is written by `python -m tests.integrations.policies_page`, which asks the policies of
the tests. `attachment.describe()` and `normmon inspect module:callable` say the same of yours, with the number of
parameters of each group and the optimizer that holds them.

- **Groups** have `norm/{group}/_total_norm` and `grad/{group}/_total_norm`; `{i}` is the global task id.
- **Signals** have statistics, see [metrics.md](metrics.md). If a head runs several times in a step, the first pass that
  the loss is computed from is measured.
- **Gradients are final** at the first of these: the policy says so itself; a clip call on them; the optimizer (or a
  `GradScaler`) is about to step; without any optimizer, the end of the last backward pass.
  - If no clip call comes before the step, the gradient is that of the end of the last backward pass
    ([what_cannot_be_seen.md](what_cannot_be_seen.md)).
  - Of several optimizers, each reports its own parameters. If one rests in a step, its parameters are not reported, and
    `grad/model` is absent.
  - If two optimizers hold a parameter, its gradient is the one with which the first of them steps in the call.
  - A call whose step is skipped has no record.
- **Coefficient** is min(1, max_norm / (norm + 1e-6)) of each clip call, under `clip/{model}/coefficient`. The policies
  of the tests clip if their configuration allows it. `clip_fraction=True` adds `clip/{model}/fraction`.
- **Which gradient** is stated for one rank. On several ranks, `describe()` says what this run does.
"""

TABLE = """
| policy | groups | signals | gradients are final at | which gradient | coefficient | tasks |
|---|---|---|---|---|---|---|
"""


def policies() -> Iterator[tuple[str, str, Callable[[], Any], Callable[[Any, int], Any]]]:
    """Yield section, name, how to make the policy, how it does a learner step."""

    def published(policy: Any, iteration: int) -> None:
        policy._forward_learn([random_batch(policy, task_id, iteration) for task_id in policy.task_ids])

    yield 'Multi-task UniZero of this package', 'UniZero, multi-task', lambda: tiny_policy(2), published
    for name, make in lightzero.POLICIES.items():
        yield 'LightZero 0.2.0', name, make, lambda policy, i, name=name: lightzero.learn(policy, name, i)
    for name, make in multitask.POLICIES.items():
        section = 'LightZero, git main (stand-ins with the same structure)'
        yield section, name, make, lambda policy, i, name=name: multitask.learn(policy, name, i)
    for name, case in ding_policies.CASES.items():

        def learn(policy: Any, iteration: int, case: ding_policies.Case = case) -> None:
            policy._forward_learn(*case.batch(torch.Generator().manual_seed(iteration)))

        yield 'DI-engine', name, case.make, learn
    for kind in small_policies.EVIDENCE:
        data = torch.ones(3, 4)
        section = 'Any other object with `_forward_learn` and a model'
        yield section, kind.__name__, kind, lambda policy, i, data=data: policy._forward_learn(data)


def look(make: Callable[[], Any], learn: Callable[[Any, int], Any]) -> Description:
    """Return what is found on a policy in two learner steps."""
    torch.manual_seed(0)
    np.random.seed(0)
    policy = make()
    attachment = attach(policy, {'monitor_norm_freq': 1})
    for iteration in range(2):
        learn(policy, iteration)
    attachment.detach()
    return attachment.description()


def row(name: str, found: Description) -> str:
    """Return one line of the table."""

    def short(names: list[str]) -> str:
        numbered = [re.sub(r'_task\d+', '_task{i}', entry) for entry in names]
        return ', '.join(f'`{entry}`' for entry in dict.fromkeys(numbered)) or '-'

    evidence = [f'{entry.evidence}' for entry in found.optimizers]
    cells = [
        name,
        short([group.key for group in found.groups]),
        short([signal for signal, seen in found.signals if seen]),
        ', '.join(dict.fromkeys(evidence)),
        found.gradient,
        short(list(found.coefficients)),
        'per task' if found.tasks else 'one',
    ]
    return '| ' + ' | '.join(cells) + ' |\n'


def page() -> str:
    """Return the whole page."""
    text, section = HEAD, ''
    remarks: list[str] = []
    for heading, name, make, learn in policies():
        if heading != section:
            text += ''.join(remarks) + f'\n## {heading}\n{TABLE}'
            section, remarks = heading, []
        found = look(make, learn)
        text += row(name, found)
        for remark in found.remarks:
            # They differ little from policy to policy; describe() says it for each.
            if not remark.startswith('invariants whose figures are missing'):
                remarks.append(f'{chr(10) if not remarks else ""}- {name}: {remark}\n')
    return text + ''.join(remarks)


if __name__ == '__main__':
    PAGE.write_text(page(), encoding='utf-8')
