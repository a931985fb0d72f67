"""What the monitor must know of a family of policies, and how the right adapter is found by looking at the object.

An adapter is the only place that knows the classes of one family. It says which model is measured, which tasks there
are and which signals can be had, and it publishes those signals for the duration of one due step. It never looks for
the end of the backward pass: that is found in the same way for every policy (``hook_points.py``), unless the policy
fires it itself.

An adapter for a further family is registered: by a function, :func:`register_adapter`, or by an installed package
without any call, with an entry point of the group ``ding_normmon.adapters`` that names its factory.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Protocol

from torch import nn

from ding_normmon.core.step import LearnerStep

__all__ = ['LOCAL_GRADIENT', 'Adapter', 'AdapterFactory', 'find_adapter', 'register_adapter', 'unregister_adapter']

logger = logging.getLogger('ding_normmon')

LOCAL_GRADIENT = 'local, before clipping'
"""Remark on policies whose ranks clip before they average: the gradients of shared modules then differ between ranks,
and the metrics of ``metrics/local_gradients.py`` are measured instead."""


class Adapter(Protocol):
    """One policy as the monitor sees it.

    An adapter may hold references to the policy and its model; it is dropped when the attachment is detached. It must
    leave nothing on them outside of :meth:`observe`.

    Attributes:
        name: the family, for people: ``'LightZero UniZero'``.
        model: the model whose parameters are grouped and measured.
        num_tasks: number of tasks of the whole run; None for a single-task policy.
        task_ids: global ids of the tasks that this rank trains; None for all of them.
        module_groups: further groups that this family needs, as in the configuration's ``module_groups``; the user's
            own come first, and win where a name is in both.
        signals: names of what will be published, for ``describe()``.
        remarks: sentences about what is not available, and why.
        gradient: which gradient is reported, such as ``'local, before clipping'``.
    """

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> nn.Module: ...

    @property
    def num_tasks(self) -> int | None: ...

    @property
    def task_ids(self) -> tuple[int, ...] | None: ...

    @property
    def module_groups(self) -> Mapping[str, Any]: ...

    @property
    def signals(self) -> tuple[str, ...]: ...

    @property
    def remarks(self) -> tuple[str, ...]: ...

    @property
    def gradient(self) -> str: ...

    def observe(self, step: LearnerStep, data: Any = None) -> AbstractContextManager[None]:
        """Publish signals and fire ``forward_end`` while one due step runs; everything is put back at the end.

        ``data`` is what ``_forward_learn`` was called with; some policies keep the mask of padded steps only there.

        ``forward_end`` must fire after the losses are known and before the backward pass. An adapter that cannot see
        that moment leaves it alone: it is then fired just before ``backward_end``, when the weights are still the
        same.
        """
        ...


AdapterFactory = Callable[[Any], 'Adapter | None']
"""Returns the adapter of a policy, or None for a policy of another family."""

_ENTRY_POINTS = 'ding_normmon.adapters'

_registered: list[AdapterFactory] = []

# Tried in this order after those that were registered; the first adapter wins. A module is imported only if the
# framework it needs (last column) is in the process already: a policy of that framework cannot exist otherwise.
_FACTORIES: tuple[tuple[str, str, str | None], ...] = (
    ('ding_normmon.integrations.publishing_policy', 'publishing_adapter', None),
    ('ding_normmon.integrations.lightzero', 'lightzero_adapter', 'lzero'),
    ('ding_normmon.integrations.ding_engine.policies', 'ding_adapter', None),
)


def register_adapter(factory: AdapterFactory) -> AdapterFactory:
    """Have a factory asked for the adapter of every policy, before those of this package; the newest is asked first.

    Arguments:
        factory: returns the adapter of a policy, or None for a policy of another family; it should inspect the object,
            not versions. Registering it a second time changes nothing.

    Returns:
        The factory, so that this is a decorator too.

    Raises:
        TypeError: it cannot be called.

    Example:
        >>> @register_adapter
        ... def my_adapter(policy):
        ...     return MyAdapter(policy) if hasattr(policy, 'my_world_model') else None
        >>> unregister_adapter(my_adapter)
    """
    if not callable(factory):
        raise TypeError(f'monitor: an adapter factory is a function of the policy, got {factory!r}')
    if factory not in _registered:
        _registered.insert(0, factory)
    return factory


def unregister_adapter(factory: AdapterFactory) -> None:
    """Ask a factory no longer; one that was never registered is left alone."""
    if factory in _registered:
        _registered.remove(factory)


@functools.lru_cache(maxsize=1)
def _installed() -> tuple[AdapterFactory, ...]:
    """Return the factories of installed packages; one that cannot be imported is logged and left out."""
    found = []
    for entry in entry_points(group=_ENTRY_POINTS):
        try:
            found.append(entry.load())
        except Exception as error:
            logger.warning(
                'monitor: the adapter %s (%s) of an installed package cannot be imported (%s: %s); policies of its '
                'family are measured without it',
                entry.name,
                entry.value,
                type(error).__name__,
                error,
            )
    return tuple(found)


def _own_factories() -> Iterator[AdapterFactory]:
    for module, name, framework in _FACTORIES:
        if framework is None or framework in sys.modules:
            yield getattr(import_module(module), name)


def find_adapter(policy: Any) -> Adapter:
    """Return the adapter of a policy: from a registered factory, else an installed package, else this one.

    Raises:
        TypeError: an object that is no policy, such as ``policy.learn_mode``; the message says what is missing.
        RuntimeError: a factory that was registered or installed raised; the message names it.
    """
    if hasattr(policy, '_fields'):
        raise TypeError('monitor: expected the policy itself, got one of its mode views, such as policy.learn_mode')
    for factory in (*_registered, *_installed()):
        try:
            adapter = factory(policy)
        except Exception as error:
            where = f'{getattr(factory, "__module__", "?")}.{getattr(factory, "__qualname__", factory)}'
            what = f'{type(error).__name__}: {error}'
            raise RuntimeError(f'monitor: the adapter factory {where} failed: {what}') from error
        if adapter is not None:
            _refuse_incomplete(adapter)
            return adapter
    for factory in _own_factories():
        adapter = factory(policy)
        if adapter is not None:
            return adapter
    learns = callable(getattr(policy, '_forward_learn', None))
    lacks = 'neither _learn_model nor _model' if learns else 'no _forward_learn'
    raise TypeError(f'monitor: {type(policy).__name__} is no policy that can be measured: it has {lacks}')


_PARTS = ('name', 'model', 'num_tasks', 'task_ids', 'module_groups', 'signals', 'remarks', 'gradient', 'observe')


def _refuse_incomplete(adapter: Any) -> None:
    missing = [part for part in _PARTS if not hasattr(adapter, part)]
    if missing:
        raise TypeError(f'monitor: the adapter {type(adapter).__name__} lacks {", ".join(missing)}')
    if not isinstance(adapter.model, nn.Module):
        got = type(adapter.model).__name__
        raise TypeError(f'monitor: the model of the adapter {type(adapter).__name__} is no nn.Module but {got}')
