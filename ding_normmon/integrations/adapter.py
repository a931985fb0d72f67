"""What the monitor must know of a family of policies, and how the right adapter is found by looking at the object.

An adapter is the only place that knows the classes of one family. It says which model is measured, which tasks there
are and which signals can be had, and it publishes those signals for the duration of one due step. It never looks for
the end of the backward pass: that is found in the same way for every policy (``hook_points.py``), unless the policy
fires it itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, Protocol

from torch import nn

from ding_normmon.core.step import LearnerStep

__all__ = ['LOCAL_GRADIENT', 'Adapter', 'AdapterFactory', 'find_adapter']

LOCAL_GRADIENT = 'local, before clipping'
"""What an adapter says of a policy with several ranks, each of which clips before they average: no gradient of a shared
module is the same everywhere, and the metrics of ``metrics/local_gradients.py`` are measured instead."""


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
"""Looks at a policy; returns its adapter, or None where it is of another family."""

# Tried in this order; the first adapter wins. A module is imported only if the framework it needs (last column) is in
# the process already: a policy of that framework cannot exist otherwise.
_FACTORIES: tuple[tuple[str, str, str | None], ...] = (
    ('ding_normmon.integrations.publishing_policy', 'publishing_adapter', None),
    ('ding_normmon.integrations.lightzero', 'lightzero_adapter', 'lzero'),
    ('ding_normmon.integrations.ding_engine.policies', 'ding_adapter', None),
)


def find_adapter(policy: Any) -> Adapter:
    """Return the adapter of a policy.

    Raises:
        TypeError: an object that is no policy, such as ``policy.learn_mode``; the message says what is missing.
    """
    if hasattr(policy, '_fields'):
        raise TypeError('monitor: expected the policy itself, got one of its mode views, such as policy.learn_mode')
    for module, name, framework in _FACTORIES:
        if framework is not None and framework not in sys.modules:
            continue
        factory: AdapterFactory = getattr(import_module(module), name)
        adapter = factory(policy)
        if adapter is not None:
            return adapter
    learns = callable(getattr(policy, '_forward_learn', None))
    lacks = 'neither _learn_model nor _model' if learns else 'no _forward_learn'
    raise TypeError(f'monitor: {type(policy).__name__} is no policy that can be measured: it has {lacks}')
