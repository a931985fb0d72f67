"""Write docs/diagnosis.md and the pictures of its rules from the rules themselves and the recorded runs.

python docs/make_diagnosis_page.py
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import sys
from pathlib import Path

import matplotlib

matplotlib.use('agg')
import matplotlib.pyplot as plt
import numpy as np

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from benchmarks.faults.scenarios import Scenario  # noqa: E402
from benchmarks.faults.storage import load_run  # noqa: E402
from benchmarks.planted_faults import DATA, print_table  # noqa: E402
from benchmarks.silent_errors import BEGIN, END, PAGE  # noqa: E402
from ding_normmon.core.finding import Finding  # noqa: E402
from ding_normmon.diagnose import Rule  # noqa: E402
from ding_normmon.diagnose.rules import RULES  # noqa: E402
from ding_normmon.runs.judge import diagnose  # noqa: E402
from ding_normmon.runs.run import Run  # noqa: E402

INTRODUCTION = """\
# Diagnosis

Nobody watches 300 curves. On rank 0, rules read every record and report what goes wrong, in which task, since when, and
what to try. Findings go

- to the console, once when they are raised and once when they clear;
- to `ctx.findings` (all active ones) and `record.findings` (those raised or cleared in that record);
- to TensorBoard as text, to the history file, and to a function of yours: `NormMonitor(cfg, policy, callback=print)`;
- into a table at the end of `make train`.

`monitor.on_finding` sets what else a finding does, by severity or rule, on all ranks at the same iteration:

```python
monitor = dict(
    monitor_norm_freq=100,
    on_finding={'error': 'checkpoint', 'non_finite': 'stop'},
    rules={'head_gradient_gap': False, 'gradient_jump': {'factor': 10.0}},
)
```

A single word, `on_finding='stop'`, applies to warnings and errors; a setting for a rule overrides one for a severity.
[Many ranks](ranks.md#what-a-finding-stops-and-saves) describes how ranks stop and save together.

`diagnose=False` switches all rules off. `normmon diagnose RUN` prints what was found while a run trained. It applies
the rules to the finished run if nothing was judged then, if the rules have changed since, or with `--again`: to a
history file, our event files, or those of LightZero's in-tree monitor, as far as they have the tags. It also finds
curves of other programs that become NaN or infinite. Its exit code is 0 without findings, 1 with warnings, 2 with
errors, and 3 if there is nothing to read.

Rules compare a task with its own past and with the other tasks, in logarithms, with medians and median absolute
deviations, so that no threshold depends on a model's size. A pattern becomes a finding after several records with it,
and the finding clears after several records without it; the first 30 records raise few. All counts are numbers of
records, so `monitor_norm_freq` does not matter. Shortly after a finding that names a cause, the findings of other
rules are only information, because a fault of one task also affects shared parts and other tasks. The rules take at
most the share `budget` of the training time; if records come faster, they are asked about only some of them, but always
about those with NaN, with a gradient that clipping took away, or with a jump by three orders of magnitude.

## How good they are

`make faults` trains 54 real runs of the default tasks and applies the rules to them: 42 runs with one fault planted at
a known iteration in one known task, and 12 healthy ones. They are recorded under `tests/data/faults`, shortened to 800
iterations with small batches (`benchmarks/faults/record_run.py`; monitored every 5 iterations, conflict and plasticity
every 25), and the tests replay the rules on all of them.
Thresholds were set on seeds 0 and 1 of eleven faults and on the twelve healthy runs. Seed 2 and three kinds of fault
were held out: they were not used to set thresholds. A fault counts as found if a warning or an error about the right
task (for faults of shared parts: from the right rule) comes after it was planted.

"""

AFTER_TABLE = """
The threshold of `constant_data` was raised once after the held-out runs had been evaluated, because it gave a false
alarm in a healthy run of `make train`; with the lower threshold the held-out run with constant observations was found
too. New observations and rewards reach the batches only as the replay buffer fills with them, so constant observations
and wrong rewards are found late.

The planted weight decay is 1,000 times the usual 0.01. The NaN reward is planted behind LightZero's own check of its
targets, which would end the run with an error. FourRooms, the task of `make train` that is not learnt, is not a fault:
it hardly ever gets a reward, so its value head has a small gradient, which `head_gradient_gap` reports as information.

## What must hold

Before the rules about figures, **invariants** are checked. Each record is enough for them, and they check every record,
also when there is no time for the other rules. What is compared are bits, numbers of things and names, so the exact
ones have no threshold, no first records without findings, and no false alarms; they are errors. The others expect what
the run itself has done from its beginning; each says below what it takes for granted, and they are warnings.

TrainCheck (Jiang et al., OSDI 2025) has collected silent training errors that happened to somebody. Those that can
occur in a training loop here, and some more, are planted in plain loops, on two ranks and in the multi-task policy by
`python -m benchmarks.silent_errors --write`, which also writes this table. Record 1 is the first that could show the
error.

Four are left out: two errors of inference and of set-up (`transformers-23723`, `transformers-17877`), a mixture of experts
that stalls (`deepspeed-5794`), and a normalisation that is not initialised when a model is evaluated before it is trained
(`pytorch-51800`). `lightning-thunder-725` (autocast) and `stackoverflow-67180955` (workers with one seed) are there from the
first step in the original; here they begin later, because what is so from the beginning counts as what the run does.

SILENT_ERRORS

They say nothing in the same loops without an error, nor with gradient accumulation, a `GradScaler` that skips steps,
warm-up from 0, decay to 0, every scheduler of torch's, layers that freeze or thaw, adapters (LoRA), bfloat16, autocast,
evaluations in between, a head that is made anew together with its optimizer, a target network that is copied now and
then, four learner steps from each batch, or the same batch from the start (`tests/diagnose/invariants`); nor in
DI-engine's DQN, PPO, SAC, TD3, DDPG, R2D2 and IMPALA, nor in LightZero's entries `train_muzero` and `train_unizero`,
whole and in segments.

What cannot be seen is not checked: replicas of sharded parameters (there are none), gradients of ranks where several
optimizers share the model, inputs of a model that is compiled or called past `__call__`, schedulers that are none of
torch's, the target network of a loop that does not name it (`Monitor(..., target=model)`), and everything about
optimizers that are no `torch.optim.Optimizer`. `describe()` lists the invariants whose figures never came, and so does
`normmon diagnose`.

## The rules

Every rule has the options `severity`, `confirm` (records with the pattern before it becomes a finding), `clear`
(records without it before the finding clears) and `warmup` (first records, which raise no findings).
[Add a rule](add_a_rule.md) shows how to write one.
"""


def find_examples() -> dict[str, tuple[Scenario, Run, Finding]]:
    """Return, for every rule with a finding in some recorded run, the clearest such run."""
    examples: dict[str, tuple[Scenario, Run, Finding]] = {}
    rank = {'error': 0, 'warning': 1, 'info': 2}
    for path in sorted(DATA.glob('*/*.npz')):
        scenario, run = load_run(path)
        for finding in diagnose(run):
            if scenario.planted is not None and finding.found < scenario.planted:
                continue
            known = examples.get(finding.rule)
            # A fault that is planted and found at once makes the clearest picture.
            if known is None or _order(rank, scenario, finding) < _order(rank, known[0], known[2]):
                examples[finding.rule] = scenario, run, finding
    return examples


def _order(rank: dict[str, int], scenario: Scenario, finding: Finding) -> tuple[int, bool, int]:
    return rank[finding.severity], scenario.planted is None, finding.found - (scenario.planted or 0)


def draw(rule: str, scenario: Scenario, run: Run, finding: Finding) -> Path | None:
    """Draw the metric of a finding; a per-task metric is drawn for all tasks."""
    name = next((key for key in finding.evidence if key in run.series), None)
    if name is None:
        return None
    family = name
    for task in finding.tasks:
        family = name.replace(f'_task{task}', '_task{}')
    names = [family.format(task) for task in run.tasks] if '{}' in family else [name]
    figure, axes = plt.subplots(figsize=(6.4, 2.6), dpi=90)
    positive = True
    for task, each in enumerate(names):
        if each in run.series:
            series = run.series[each]
            positive = positive and bool(np.all(series.values > 0))
            label = run.tasks[task].removeprefix('MiniGrid-') if len(names) > 1 else None
            at_fault = len(names) == 1 or task in finding.tasks
            axes.plot(series.iterations, series.values, lw=1.6 if at_fault else 0.9, label=label, marker='.', ms=2.5)
    if positive:
        axes.set_yscale('log')
    if scenario.planted is not None:
        axes.axvline(scenario.planted, color='grey', ls=':', label='planted')
    axes.axvline(finding.found, color='crimson', lw=1, label='found')
    axes.set_title(f'{family.replace("_task{}", "")}   ({scenario.fault.replace("_", " ")})', fontsize=9)
    axes.set_xlabel('iteration', fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=6.5, loc='center left', bbox_to_anchor=(1, 0.5))
    path = DOCS / 'pictures' / 'rules' / f'{rule}.png'
    path.parent.mkdir(exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, metadata={'Software': None})
    plt.close(figure)
    return path


def section(rule: type[Rule], example: tuple[Scenario, Run, Finding] | None) -> str:
    """Return the section of the page about one rule."""
    text = inspect.cleandoc(rule.__doc__ or '')
    what, _, options = text.partition('\nOptions:\n')
    own = [f for f in dataclasses.fields(rule) if f.name not in ('severity', 'confirm', 'clear', 'warmup')]
    meanings = {}
    for line in options.splitlines():
        key, separator, meaning = line.strip().partition(': ')
        if separator and key.isidentifier():
            meanings[key] = meaning.rstrip('.')
        elif meanings:
            meanings[list(meanings)[-1]] += ' ' + line.strip().rstrip('.')
    lines = [f'### {rule.name}', '', what.strip(), '', f'**What to try.** {rule.advice}', '']
    defaults = ', '.join(f'`{f.name}={f.default}` ({meanings.get(f.name, f.name)})' for f in own)
    severity = next(f.default for f in dataclasses.fields(rule) if f.name == 'severity')
    lines += [f'Severity: {severity}.' + (f' Options: {defaults}.' if own else ''), '']
    if example is None:
        return '\n'.join([*lines, 'None of the recorded runs shows this pattern.', ''])
    path = draw(rule.name, *example)
    if path is not None:
        lines += [f'![{rule.name}](pictures/rules/{path.name})', '']
    lines += [f'> {example[2].sentence.removesuffix(" It may follow from what was just found.")}', '']
    return '\n'.join(lines)


def _silent_errors() -> str:
    """Return the table that the page has: to make it anew takes two ranks and minutes."""
    page = PAGE.read_text(encoding='utf-8')
    return f'{BEGIN}{page.partition(BEGIN)[2].partition(END)[0]}{END}'


def main() -> None:
    """Write the page."""
    table = io.StringIO()
    with contextlib.redirect_stdout(table):
        print_table(DATA)
    examples = find_examples()
    sections = [section(rule, examples.get(rule.name)) for rule in RULES]
    after = AFTER_TABLE.replace('SILENT_ERRORS', _silent_errors())
    page = INTRODUCTION + table.getvalue().strip() + '\n' + after + '\n' + '\n'.join(sections)
    (DOCS / 'diagnosis.md').write_text(page.rstrip() + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
