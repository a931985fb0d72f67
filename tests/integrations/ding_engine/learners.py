"""A ``BaseLearner`` that writes into the current folder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from ding.worker import BaseLearner
from easydict import EasyDict


def make_learner(policy: Any, rank: tuple[int, int] = (0, 1), **hooks: Any) -> BaseLearner:
    """Return a learner of a policy, with further hooks as in a configuration file."""
    config = copy.deepcopy(BaseLearner.default_config())
    config.hook = EasyDict(log_show_after_iter=1, **hooks)
    # DI-engine keeps one writer for each name in a process.
    return BaseLearner(config, policy.learn_mode, dist_info=rank, exp_name=Path.cwd().name)
