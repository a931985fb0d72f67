"""What an attachment has found on a policy: as data, and as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ding_normmon.diagnose.invariants import EXACT, EXPECTED
from ding_normmon.integrations.adapter import Adapter
from ding_normmon.integrations.observe.hook_points import EVIDENCE, NO_OPTIMIZER, HookPoints
from ding_normmon.integrations.observe.stepping import Holder
from ding_normmon.integrations.publishing_policy import PublishingAdapter
from ding_normmon.metrics import Clipping
from ding_normmon.monitor.monitor import StepMonitor

__all__ = ['Description', 'GroupFound', 'OptimizerFound', 'describe', 'unseen_invariants']

_NOT_YET = 'not seen yet (clip call, else optimizer pre-step)'


@dataclass(frozen=True)
class GroupFound:
    """A parameter group and who trains it."""

    key: str
    parameters: int
    trainable: int
    optimizer: str


@dataclass(frozen=True)
class OptimizerFound:
    """An optimizer, and how the end of its parameters' backward pass is detected."""

    name: str
    kind: str
    groups: tuple[str, ...]
    evidence: str
    clipping: str


@dataclass(frozen=True)
class Description:
    """What was found on one policy.

    Arguments:
        policy: the family and class.
        model: the class of the measured model.
        groups: its parameter groups.
        optimizers: those that hold any of its parameters.
        signals: names, and whether they have been seen in a measured step (None: no step was measured yet).
        gradient: which gradient is reported.
        coefficients: metric names of clip coefficients that were seen.
        tasks: the names of all tasks by global id; empty for a single-task policy.
        remarks: what is not available, and why.
    """

    policy: str
    model: str
    groups: tuple[GroupFound, ...]
    optimizers: tuple[OptimizerFound, ...]
    signals: tuple[tuple[str, bool | None], ...]
    gradient: str
    coefficients: tuple[str, ...]
    tasks: Mapping[int, str]
    remarks: tuple[str, ...]

    @classmethod
    def of(
        cls, policy: Any, adapter: Adapter, monitor: StepMonitor, points: HookPoints | None, seen: set[str]
    ) -> Description:
        """Look at an attachment's parts."""
        holders = () if points is None else points.holders()
        groups = () if points is None else monitor.groups
        remarks = list(adapter.remarks)
        if points is None:
            remarks.append('monitor_norm_freq is 0: nothing is attached')
        elif not holders:
            remarks.append(
                'no torch optimizer was found that holds parameters of the model: gradients are read at the first clip '
                'call or at the end of the last backward pass'
            )
        found = []
        for group in groups:
            held = {holder.name for holder in holders for p in group.parameters if id(p) in holder.parameters}
            found.append(
                GroupFound(
                    group.key,
                    sum(parameter.numel() for parameter in group.parameters),
                    sum(parameter.numel() for parameter in group.parameters if parameter.requires_grad),
                    ', '.join(sorted(held)) or '-',
                )
            )
            shared = [
                parameter
                for parameter in group.parameters
                if sum(id(parameter) in holder.parameters for holder in holders) > 1
            ]
            if shared:
                remarks.append(
                    f'{group.key}: several optimizers hold {len(shared)} of {len(group.parameters)} parameter tensors; '
                    f'shown is the gradient with which the first of them steps'
                )
            free = sum(not any(id(p) in holder.parameters for holder in holders) for p in group.parameters)
            if holders and free:
                remarks.append(f'{group.key}: {free} of {len(group.parameters)} parameter tensors are in no optimizer')
        measured = bool(points is not None and points.evidence)
        names = [(name, name in seen if measured else None) for name in adapter.signals]
        # A head with several outputs has several signals.
        names = [entry for entry in names if not any(other.startswith(f'{entry[0]}/') for other in seen)]
        names += [(name, True) for name in sorted(seen - {name for name, _ in names})]
        coefficients: list[str] = []
        without: list[str] = []
        for name, single in sorted({} if points is None else points.clips.items()):
            (coefficients if single else without).append(name)
        remarks += [f'{name} is clipped value by value: there is no one coefficient' for name in without]
        changed = [name for metric in monitor.metrics if isinstance(metric, Clipping) for name in sorted(metric.found)]
        coefficients += [name for name in changed if name not in coefficients]
        remarks += [
            f'what changes the gradient of {name} before the optimizer steps: no clip call was seen; '
            f'clip/{name}/coefficient is the ratio of the norms'
            for name in changed
        ]
        if measured:
            remarks += unseen_invariants(monitor)
        optimizers = tuple(_optimizer(holder, points, found, adapter, remarks) for holder in holders) if points else ()
        if points is not None and not holders and points.evidence:
            keys = tuple(group.key for group in found)
            evidence = EVIDENCE[points.evidence[NO_OPTIMIZER]]
            optimizers = (OptimizerFound(NO_OPTIMIZER, '-', keys, evidence, _clipping(None, points)),)
        return cls(
            policy=adapter.name,
            model=type(adapter.model).__name__,
            groups=tuple(found),
            optimizers=optimizers,
            signals=tuple(names),
            gradient=_gradient(adapter, points),
            coefficients=tuple(f'clip/{name}/coefficient' for name in coefficients),
            tasks=monitor.tasks,
            remarks=tuple(remarks),
        )


def unseen_invariants(monitor: StepMonitor) -> list[str]:
    """Return a sentence on the invariants that cannot be checked because figures are missing; none if all can be."""
    invariants = {rule.name for rule in (*EXACT, *EXPECTED)}
    unseen = [f'{name} ({figures})' for name, figures in monitor.diagnosis.not_judged.items() if name in invariants]
    return [f'invariants whose figures are missing: {", ".join(unseen)}'] if unseen else []


def _gradient(adapter: Adapter, points: HookPoints | None) -> str:
    """Say which gradient is reported, and of clipping no more than is known."""
    if points is None or isinstance(adapter, PublishingAdapter):
        return adapter.gradient
    known = 'before clipping'
    if not points.evidence:
        known += ', as far as that can be seen from outside (docs/what_cannot_be_seen.md)'
    elif points.as_found:
        known = 'as the optimizer found it: whether somebody had clipped it cannot be seen'
    return adapter.gradient.replace('before clipping', known)


def _optimizer(
    holder: Holder, points: HookPoints, groups: Sequence[GroupFound], adapter: Adapter, remarks: list[str]
) -> OptimizerFound:
    kind = type(holder.optimizer).__name__
    if type(holder.optimizer).__module__.startswith('ding.'):
        kind += ' (DI-engine)'
    evidence = points.evidence.get(holder.name)
    if evidence is None:
        expected = EVIDENCE['policy'] if isinstance(adapter, PublishingAdapter) else _NOT_YET
    else:
        expected = EVIDENCE[evidence]
    settings = getattr(holder.optimizer, '_grad_clip_type', None)
    if settings in ('clip_momentum', 'clip_momentum_norm'):
        remarks.append(f'{holder.name} clips by {settings} inside its step: the coefficient is the ratio of the norms')
    keys = tuple(group.key for group in groups if holder.name in group.optimizer.split(', '))
    return OptimizerFound(holder.name, kind, keys, expected, _clipping(holder, points))


def _clipping(holder: Holder | None, points: HookPoints) -> str:
    optimizer = None if holder is None else holder.optimizer
    settings = []
    for kind, value in (('_grad_clip_type', '_clip_value'), ('_grad_ignore_type', '_ignore_value')):
        if getattr(optimizer, kind, None):
            settings.append(f'{getattr(optimizer, kind)}={getattr(optimizer, value)} in step')
    if not settings and points.clips:
        settings = [f'of {name}' for name in points.clips]
    return ', '.join(settings) or '-'


def describe(found: Description) -> str:
    """Return the description as a text of three tables.

    Raises:
        RuntimeError: the package ``tabulate`` is not there.
    """
    try:
        from tabulate import tabulate
    except ImportError as error:
        raise RuntimeError('describe() needs the package tabulate: pip install tabulate') from error
    tasks = f'{len(found.tasks)} tasks' if found.tasks else 'single task'
    groups = [(group.key, f'{group.parameters:,}', f'{group.trainable:,}', group.optimizer) for group in found.groups]
    optimizers = [
        (entry.name, entry.kind, ', '.join(entry.groups), entry.evidence, entry.clipping) for entry in found.optimizers
    ]
    seen = {None: 'not looked for yet', True: 'seen', False: 'not seen in a measured step'}
    signals = [(name, seen[state]) for name, state in found.signals]
    parts = [
        f'{found.policy}, model {found.model}, {tasks}',
        f'gradient: {found.gradient}',
        tabulate(groups, headers=['group', 'parameters', 'trainable', 'optimizer'], disable_numparse=True),
        tabulate(optimizers, headers=['optimizer', 'class', 'groups', 'backward_end found by', 'clips']),
        tabulate(signals, headers=['signal', '']),
        'clip coefficients: ' + (', '.join(found.coefficients) or 'none seen'),
        *(f'not available: {remark}' for remark in found.remarks),
    ]
    return '\n\n'.join(parts)
