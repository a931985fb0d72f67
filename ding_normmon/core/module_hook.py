"""Forward hooks of the monitor's own, which copies of a module do not have and tracers do not see."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from ding_normmon.core.compiled import is_compiling
from ding_normmon.core.observed_function import ObservedFunction

__all__ = ['SCRIPTING', 'ModuleHook', 'is_traced', 'without_hooks']

_transforms: Callable[[], Any] = getattr(
    getattr(torch._C, '_functorch', None), 'peek_interpreter_stack', lambda: None
)
_KINDS = getattr(torch._C, '_TorchDispatchModeKey', None)
_MODES = () if _KINDS is None else (_KINDS.FAKE, _KINDS.PROXY, _KINDS.FUNCTIONAL)


def is_traced() -> bool:
    """Return whether the tensors of what runs now are no plain ones.

    So it is while ``torch.compile``, ``torch.export`` or ``torch.jit.trace`` follow a program, inside of ``torch.func``
    (``grad``, ``vmap`` and relatives), and with fake tensors.

    >>> is_traced(), torch.func.vmap(lambda row: row * is_traced())(torch.ones(2, 3)).tolist()
    (False, [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    """
    if is_compiling() or _transforms() is not None or torch._C._get_tracing_state() is not None:
        return True
    if not torch._C._len_torch_dispatch_stack():
        return False
    return any(torch._C._get_dispatch_mode(mode) is not None for mode in _MODES)


class ModuleHook:
    """A forward hook or forward pre-hook that only looks, and only at plain tensors.

    A module that is copied or saved while the hook is there has in its place one that does nothing, for which this
    package need not be installed: a copy (a target network, a checkpoint of the whole module) is not measured.

    Arguments:
        hook: is called as torch calls hooks; what it returns is ignored.

    Example:
        >>> import copy
        >>> layer, heard = torch.nn.Linear(2, 1), []
        >>> handle = layer.register_forward_hook(ModuleHook(lambda module, inputs, output: heard.append(output)))
        >>> _ = layer(torch.ones(1, 2)), copy.deepcopy(layer)(torch.ones(1, 2))
        >>> len(heard)
        1
    """

    def __init__(self, hook: Callable[..., object]) -> None:
        self._hook = hook

    def __call__(self, *arguments: Any) -> None:
        """Pass the call on, unless it is traced."""
        if not is_traced():
            self._hook(*arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        # It takes any arguments and returns None, and every Python has it.
        return getattr, (contextlib.nullcontext(), '__exit__')


SCRIPTING = ObservedFunction.of(getattr(getattr(torch.jit, '_recursive', None), 'get_hook_stubs', None))
"""The function of ``torch.jit.script`` that compiles the hooks of a module, and fails for those it cannot read."""


def without_hooks(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make a call about a module (a listener for :data:`SCRIPTING`) that is to see no :class:`ModuleHook` on it."""
    tables = [args[0]._forward_hooks, args[0]._forward_pre_hooks]
    kept = [{key: hook for key, hook in table.items() if isinstance(hook, ModuleHook)} for table in tables]
    for table, hooks in zip(tables, kept, strict=True):
        for key in hooks:
            del table[key]
    try:
        return call(*args, **kwargs)
    finally:
        for table, hooks in zip(tables, kept, strict=True):
            table.update(hooks)
