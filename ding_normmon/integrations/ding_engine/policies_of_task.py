"""Several monitored policies in one task: their iterations and names."""

from __future__ import annotations

import logging
from typing import Any

from ding_normmon.core.config import ConfigurationError

__all__ = ['PoliciesOfTask']

logger = logging.getLogger('ding_normmon')

_ATTRIBUTE = 'monitored_policies'


class PoliciesOfTask:
    """The policies whose learner steps move one ``ctx.train_iter``; it goes from context to context.

    The change of ``train_iter`` between two learner steps belongs to the policy that made the first of them. With a
    single policy, its iteration is ``train_iter``.

    Example:
        >>> policies = PoliciesOfTask()
        >>> policies.iteration_of('main', 100), policies.iteration_of('opponent', 101)
        (100, 100)
        >>> policies.iteration_of('main', 102), policies.iteration_of('opponent', 103)
        (101, 101)
    """

    def __init__(self) -> None:
        self._names: dict[Any, str] = {}
        self._own: dict[Any, int] = {}
        self._start = self._last = 0
        self._runner: Any = None

    @classmethod
    def of(cls, ctx: Any) -> PoliciesOfTask:
        """Return those of a context; the next context has them too."""
        found: PoliciesOfTask | None = getattr(ctx, _ATTRIBUTE, None)
        if found is None:
            found = cls()
            found._start = int(ctx.train_iter)
            setattr(ctx, _ATTRIBUTE, found)
        # A context keeps an attribute for one more loop only if it is asked to in every loop.
        if hasattr(ctx, 'keep'):
            ctx.keep(_ATTRIBUTE)
        return found

    @property
    def count(self) -> int:
        """How many monitors have a name."""
        return len(self._names)

    def name_of(self, owner: Any, name: str) -> str:
        """Return the name under which a monitor publishes; a second one without a name is given one.

        Raises:
            ConfigurationError: another monitor of the task has this name.
        """
        if owner not in self._names:
            if name and name in self._names.values():
                raise ConfigurationError(f'monitor: two monitors of one task are called {name!r}; names must differ')
            if not name and '' in self._names.values():
                name = f'policy{len(self._names) + 1}'
                logger.warning(
                    'monitor: two policies of one task are monitored; the names of the second begin with %s/. '
                    "NormMonitor(cfg, policy, name='opponent') gives it a better one",
                    name,
                )
            self._names[owner] = name
        return self._names[owner]

    def release(self, owner: Any) -> None:
        """Forget a monitor that is closed: another one may have its name, and the iterations if it is alone."""
        self._names.pop(owner, None)
        if not self._names:
            self._own.clear()
            self._runner = None

    def iteration_of(self, owner: Any, train_iter: int) -> int:
        """Return the iteration of the learner step that a policy begins while ``train_iter`` has this value."""
        if self._runner is None:
            self._start = train_iter
        else:
            self._own[self._runner] += train_iter - self._last
        self._last, self._runner = train_iter, owner
        return self._own.setdefault(owner, self._start)
