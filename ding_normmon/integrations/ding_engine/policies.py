"""DI-engine's policies, and any other with a ``_forward_learn`` and a model: the model's parts and its heads' outputs.

Groups are the model's top-level modules under their own names. Signals are the outputs of the model's heads, of the
first forward pass of a step that has a graph, in training mode: what the loss is made of. Target networks are copies
and are never seen; neither are passes without a graph (targets, advantages) or with the model in evaluation mode.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ding_normmon.core.compiled import compiled_parts
from ding_normmon.core.module_hook import ModuleHook
from ding_normmon.core.parameter_groups import OTHER
from ding_normmon.core.step import LearnerStep
from ding_normmon.integrations.batch_signals import publish_batch
from ding_normmon.integrations.policy_model import find_models, model_of

__all__ = ['DingAdapter', 'ding_adapter', 'find_heads', 'groups_of_children']

_RESERVED = re.compile(r'^(model|x_token|other|.*_all_tasks|.*_task\d+|[^A-Za-z].*)$')


class DingAdapter:
    """A policy of DI-engine, or one that is made like them."""

    num_tasks: int | None = None
    task_ids: tuple[int, ...] | None = None

    def __init__(self, policy: Any, model: nn.Module) -> None:
        ours = any(cls.__module__.split('.')[0] == 'ding' for cls in type(policy).__mro__)
        self.name = f'DI-engine {type(policy).__name__}' if ours else type(policy).__name__
        models = find_models(policy, model)
        # A container takes no part in the forward passes, and the models in it do not know it.
        self.model: nn.Module = nn.ModuleDict({'model': model, **models}) if models else model
        self.module_groups: Mapping[str, Any] = groups_of_children(self.model, nested=bool(models))
        inside = _compiled_parts(policy, self.model)
        heads = find_heads(self.model)
        self._heads = {name: head for name, head in heads.items() if id(head) not in inside}
        self._compiled = [name for name in heads if name not in self._heads]
        self.signals = tuple(f'outputs/{name}' for name in self._heads)
        self.remarks = tuple(self._remarks())
        self._declared = getattr(getattr(policy, '_cfg', None), 'model', None)
        ranks = bool(getattr(getattr(policy, '_cfg', None), 'multi_gpu', False))
        synchronised = 'synchronised' if ranks else 'local (one rank)'
        self.gradient = f'{synchronised}, before clipping'

    def _remarks(self) -> Iterator[str]:
        if self._compiled:
            heads = ', '.join(self._compiled)
            yield f'signals of {heads}: inside a compiled model, where a hook is not called, or compiles it once more'
        elif not self._heads:
            yield 'no head was found in the model (a module whose class or name says head): no signals'

    @contextlib.contextmanager
    def observe(self, step: LearnerStep, data: Any = None) -> Iterator[None]:
        """Publish the heads' outputs. Where the loss is known cannot be seen, so ``forward_end`` is left alone."""
        seen: set[str] = set()
        publish_batch(step, data, self._declared)
        with contextlib.ExitStack() as undo:
            for name, head in self._heads.items():
                undo.callback(head.register_forward_hook(_publisher(step, f'outputs/{name}', seen)).remove)
            yield


def ding_adapter(policy: Any) -> DingAdapter | None:
    """Return the adapter of an object that learns as DI-engine's policies do."""
    model = model_of(policy)
    if model is None or not callable(getattr(policy, '_forward_learn', None)):
        return None
    return DingAdapter(policy, model)


def groups_of_children(model: nn.Module, nested: bool = False) -> dict[str, str]:
    """Return a group for each top-level module that has parameters of its own.

    Arguments:
        nested: the top level is several models; groups are named ``{model}.{child}``.

    >>> encoder, head = nn.Linear(2, 2), nn.Linear(2, 1)
    >>> groups_of_children(nn.ModuleDict({'encoder': encoder, 'head': head, 'both': nn.ModuleList([encoder, head])}))
    {'encoder': 'encoder', 'head': 'head'}
    """
    if nested:
        groups = {}
        for name, child in model.named_children():
            parts = groups_of_children(child)
            groups.update({f'{name}.{part}': f'{name}.{path}' for part, path in parts.items()})
            covered = {id(p) for path in parts.values() for p in child.get_submodule(path).parameters()}
            if any(id(parameter) not in covered for parameter in child.parameters()):
                groups[f'{name}.{OTHER}'] = name
        return groups
    found: dict[str, str] = {}
    taken: set[int] = set()
    for name, child in model.named_children():
        own = {id(parameter) for parameter in child.parameters()} - taken
        if own:
            taken |= own
            found[f'module.{name}' if _RESERVED.match(name) else name] = name
    return found


def find_heads(model: nn.Module) -> dict[str, nn.Module]:
    """Return the model's heads by name: modules whose class or attribute is named after one, the outermost of them.

    A head at the end of a ``Sequential`` stands for the whole of it.

    >>> class DiscreteHead(nn.Linear): ...
    >>> list(find_heads(nn.ModuleDict({'critic': nn.ModuleList([DiscreteHead(2, 1), DiscreteHead(2, 1)])})))
    ['critic_0', 'critic_1']
    """
    found: dict[str, nn.Module] = {}
    seen: set[int] = set()
    modules = dict(model.named_modules())
    for path, module in modules.items():
        leaf = path.rpartition('.')[2]
        if id(module) in seen or isinstance(module, (nn.ModuleList, nn.ModuleDict)) or not path:
            continue
        if 'Head' in type(module).__name__ or ('head' in leaf and not isinstance(module, nn.Sequential)):
            parent = path.rpartition('.')[0]
            container = modules[parent]
            last = isinstance(container, nn.Sequential) and container[-1] is module
            found[(parent if last and parent else path).replace('.', '_')] = module
            seen.update(id(part) for part in module.modules())
    return found


def _compiled_parts(policy: Any, model: nn.Module) -> set[int]:
    # A compiled view of the model may be kept under any name.
    kept = [value for value in vars(policy).values() if isinstance(value, nn.Module)]
    return compiled_parts([*kept, model])


def _publisher(step: LearnerStep, signal: str, seen: set[str]) -> Callable[..., None]:
    def publish(module: nn.Module, inputs: Any, output: Any) -> None:
        if not module.training:
            return
        for name, tensor in _tensors(signal, output):
            # A critic runs again for the actor's loss, analysis runs without a graph: only the first pass counts.
            if tensor.requires_grad and tensor.is_floating_point() and name not in seen:
                seen.add(name)
                step.publish(name, tensor)

    return ModuleHook(publish)


def _tensors(name: str, output: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        yield name, output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from _tensors(f'{name}/{key}', value)
    elif isinstance(output, (list, tuple)):
        names = getattr(output, '_fields', range(len(output)))
        for key, value in zip(names, output, strict=True):
            yield from _tensors(f'{name}/{key}', value)
