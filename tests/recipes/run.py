"""Run every recipe of docs/other_trainers.md, and check what it measured; `make test-recipes` calls it.

It needs no test framework: the environment of the recipes has what their trainers need and nothing else.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs' / 'other_trainers.md'
RECIPE = re.compile(r'^## ([^\n]+)\n(?:(?!^## ).)*?^```py(?:thon)?\n(.*?)^```', re.MULTILINE | re.DOTALL)

BEFORE = """
import torch

true = []

def note(optimizer, args, kwargs):
    held = [parameter for group in optimizer.param_groups for parameter in group['params']]
    closure = kwargs.get('closure', args[1] if len(args) > 1 else None)
    entry = {'norm': float(torch.cat([p.detach().double().flatten() for p in held]).norm())}
    true.append(entry)

    def gradient():
        entry['grad'] = float(torch.cat([p.grad.double().flatten() for p in held if p.grad is not None]).norm())

    if closure is None:
        gradient()
        return None

    def evaluated():
        loss = closure()
        gradient()
        return loss

    return (args[0], evaluated, *args[2:]) if len(args) > 1 else args, {**kwargs, **(
        {'closure': evaluated} if 'closure' in kwargs else {})}

from torch.optim.optimizer import register_optimizer_step_pre_hook
register_optimizer_step_pre_hook(note)

from ding_normmon import Monitor
taken = []
take_records = Monitor.take_records
Monitor.take_records = lambda self: taken.extend(found := take_records(self)) or found
"""

AFTER = """
assert taken
for record in taken:
    right, figures = true[record.iteration], record.scalars
    clipped = figures['grad/model/_total_norm'] * figures['clip/model/coefficient']
    assert abs(figures['norm/model/_total_norm'] / right['norm'] - 1) < 1e-6, (record.iteration, figures, right)
    assert abs(clipped / right['grad'] - 1) < 1e-4, (record.iteration, figures, right)
print(len(taken), 'records, right to float64')
"""


def main() -> int:
    """Run each recipe in a process of its own; return how many went wrong."""
    recipes = RECIPE.findall(PAGE.read_text(encoding='utf-8'))
    wrong = 0
    for title, block in recipes:
        program = '\n'.join((BEFORE, block, AFTER))
        done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, check=False)
        said = (done.stdout.strip().splitlines() or [''])[-1]
        print(f'{title}: {said if done.returncode == 0 else done.stderr.strip()}', flush=True)
        wrong += done.returncode != 0
    return wrong if len(recipes) > 3 else 1


if __name__ == '__main__':
    sys.exit(main())
