"""Write docs/diagnosis.md from the rules themselves and the recorded runs.

python docs/make_diagnosis_page.py
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from benchmarks.faults.kinds import KINDS  # noqa: E402
from benchmarks.faults.scenarios import Scenario  # noqa: E402
from benchmarks.faults.storage import load_run  # noqa: E402
from benchmarks.faults.table import tables  # noqa: E402
from benchmarks.planted_faults import DATA, RECORDED  # noqa: E402
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
    rules={'head_gradient_gap': False, 'gradient_jump': {'threshold': 2.0}},
)
```

A single word, `on_finding='stop'`, applies to warnings and errors; a setting for a rule overrides one for a severity.
[Many ranks](ranks.md#what-a-finding-stops-and-saves) describes how ranks stop and save together.

`diagnose=False` switches all rules off. `normmon diagnose RUN` prints what was found while a run trained. It applies
the rules to the finished run if nothing was judged then, if the rules have changed since, or with `--again`: to a
history file, our event files, or those of LightZero's in-tree monitor, as far as they have the tags. It also finds
curves of other programs that become NaN or infinite. Its exit code is 0 without findings, 1 with warnings, 2 with
errors, and 3 if there is nothing to read.

Most rules are one test. A figure has left its past if the median of its last three points is further from the median of
the past than several times the past's spread, and further than any move before; the past is the last 32 points, and 64
of the whole run. Points that have left do not enter it. A figure has also left where no spread allows what it does: it
is exactly 0 and never was, rewards or values have another sign than ever, a loss that had fallen far is above where it
began, what training moves all the time jumps further than neighbouring points ever differ, or weights shrink faster
than they ever have. At least five iterations lie between two points, so it does not matter much how often is measured.
The declaration of a figure ([metrics.md](metrics.md)) says at which stage of the learner step it arises, and the stage
says what counts as small, whether training itself moves the figure, and which direction is a change for the worse. The
threshold grows with the number of figures. What other tasks do too is not one task's; a task that becomes like the
others is not at fault; one that gets its first rewards after a long time, or more than twice as large ones as ever,
learns from them, values of up to five times the largest reward; and one whose data no longer comes is not judged. A
step is judged by what it is for its learning rate.

Of what has left at the same time the earliest stage is the cause: data, targets, losses, outputs, representation,
gradients, steps, weights; weights come before losses if they jump faster than training moves them. The rest is
information. Steps of many parts that jump together count for more than those of one, and weights that shrink in one
part alone for less. Losses below a sixth of what they were in the beginning are small, and what grows little by little,
logits and values, gradients, steps and weights, is information: it does where something is learnt. So is a clip
coefficient that falls as the gradient grows, and a step of a head no larger than its first ones. The first seven
points, or 60 iterations, raise no such findings. The rules take at most the share `budget` of the training time; if
records come faster, they are asked about only some of them, but always about those with NaN, with a gradient that
clipping took away, or with a jump by three orders of magnitude. Of a finished run of more than 20,000 records they are
asked about every second, third and so on.

A finding keeps its rule, the key of its sentence and its values. `sentence_of(finding, 'zh')` and
`advice_of(finding, 'zh')` of `ding_normmon.diagnose.wording` make the sentence and the advice where they are shown.

## How good they are

`make faults` trains real runs of the multi-task policy on small tasks (`benchmarks/faults/record_run.py`) with a fault
of one of NUMBER_OF_KINDS kinds planted. Strength, task, time, duration, number of tasks, learning rate and batch size
are drawn at random. Every iteration is recorded; other frequencies are made of that. A third of the kinds, chosen by a
hash of the name among those that no rule was ever written for, was not looked at while thresholds were set. A fault
counts as found if a warning or an error names what is at fault: that task; or no single task where optimizer, network
or schedule are. What one rank does wrong to its tasks is planted in one process; what ranks must agree on is checked by
invariants. Runs are short, so that many could be recorded; at every 20 iterations there are three or four records
before the fault, and as many after it. So there are long runs too, of 14 kinds that short ones show and of two healthy
variations: five times as many iterations before the fault, and after it. `tests/diagnose/test_altered_runs.py` alters
the curves of a longer healthy run as 23 faults do, at every 1, 5, 10, 20 and 50 iterations, with 1, 4 and 26 tasks.
Four of these 45 tests are marked as gaps: with 26 tasks at every 1 and 5 iterations more than one fault of all tasks
is missed; with 4 and 26 tasks at every single iteration two faults of one task, steps ten times as large and
embeddings of a fifth of their size.

"""

AFTER_TABLE = """
What is not found, and why:

- actions or targets in the wrong order: of a model that has not learnt yet how they belong together no figure changes;
- another weight of a loss that is next to 0 already: neither the sum that is differentiated nor a step changes by more
  than usual. Often its first iterations show it, if each is measured;
- a task whose data changes little by little with the replay buffer, or in a part of its observations, by less than its
  batches differ;
- a learning rate that decays a little too fast: until it is as good as 0 it is a schedule;
- what is planted when there are three records: at every 20 iterations the short runs are too short;
- what has six or seven records: in the long runs at every 50 iterations, a head that was reset, or an optimizer
  without its state. And a learning rate that swings within 40 iterations is not seen at every 50.

By the figures of LightZero's in-tree monitor (no data, no targets, no steps, signals of all tasks together) faults of
the data are seen only by their effects.

## What must hold

Before the rules about figures, **invariants** are checked. Each record is enough for them, and they check every record,
also when there is no time for the other rules. What is compared are bits, numbers of things and names, so the exact
ones have no threshold, no first records without findings, and no false alarms; they are errors. The others expect what
the run itself has done from its beginning; each says below what it takes for granted, and they are warnings.

TrainCheck (Jiang et al., OSDI 2025) has collected silent training errors that happened to somebody. Those that can
occur in a training loop here, and some more, are planted in plain loops, on two ranks and in the multi-task policy by
`python -m benchmarks.silent_errors --write`, which also writes this table. Record 1 is the first that could show the
error.

Four are left out: two errors of inference and of set-up (`transformers-23723`, `transformers-17877`), a mixture of
experts that stalls (`deepspeed-5794`), and a normalisation that is not initialised when a model is evaluated before
it is trained (`pytorch-51800`). `lightning-thunder-725` (autocast) and `stackoverflow-67180955` (workers with one
seed) are there from the first step in the original; here they begin later, because what is so from the beginning
counts as what the run does.

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

Of `data_jump`, `target_jump`, `loss_weights`, `learning_rate` and `no_gradient` the advice is checked: in a run with
such a fault somebody follows it after 50 iterations, and the finding clears (`tests/diagnose/test_advice.py`). Findings
of `update_jump` and `weight_jump` were still there 120 iterations after an optimizer had its state again, and after a
weight decay was set right. DI-engine's examples of DQN, PPO and SAC, shortened, are not warned of in a thousand
iterations (`tests/diagnose/test_examples.py`).
"""


def find_examples() -> dict[str, tuple[Scenario, Run, Finding]]:
    """Return, for every rule with a finding in some recorded run, the clearest such run."""
    examples: dict[str, tuple[Scenario, Run, Finding]] = {}
    rank = {'error': 0, 'warning': 1, 'info': 2}
    for path in sorted(DATA.glob('*.npz')):
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
    lines += [f'> {example[2].sentence.removesuffix(" It may follow from what was just found.")}', '']
    return '\n'.join(lines)


def _silent_errors() -> str:
    """Return the table that the page has: to make it anew takes two ranks and minutes."""
    page = PAGE.read_text(encoding='utf-8')
    return f'{BEGIN}{page.partition(BEGIN)[2].partition(END)[0]}{END}'


def main() -> None:
    """Write the page."""
    table = tables(RECORDED if RECORDED.exists() else DATA)
    examples = find_examples()
    sections = [section(rule, examples.get(rule.name)) for rule in RULES]
    after = AFTER_TABLE.replace('SILENT_ERRORS', _silent_errors())
    page = INTRODUCTION.replace('NUMBER_OF_KINDS', str(len(KINDS))) + table + '\n' + after + '\n' + '\n'.join(sections)
    (DOCS / 'diagnosis.md').write_text(page.rstrip() + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
