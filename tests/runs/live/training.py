"""Runs to look at: one that was written, and one that trains, a small model with the monitor in its own process."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from ding_normmon.core.record import Record
from ding_normmon.runs.history_file import HistoryFile

PROGRAM = """
import sys, time
import torch
from torch import nn
from ding_normmon import Monitor
from ding_normmon.runs.history_file import HistoryFile

folder, pause = sys.argv[1], float(sys.argv[2])
torch.manual_seed(0)
model = nn.ModuleDict({'encoder': nn.Linear(4, 8), 'head': nn.Linear(8, 2)})
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
config = {'monitor_norm_freq': 1, 'history': False, 'budget': None}
monitor = Monitor(model, config, destinations=[HistoryFile(folder + '/history.arrows')])
for iteration in range(int(sys.argv[3])):
    with monitor.step(iteration) as step:
        loss = model['head'](model['encoder'](torch.randn(16, 4))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    time.sleep(pause)
monitor.close()
"""


def record_at(iteration: int) -> Record:
    """Return a record of an iteration."""
    return Record(iteration, {'grad/model/_total_norm': 1.0 + iteration})


def write(folder: Path, iterations: range = range(3), close: bool = True) -> HistoryFile:
    """Write a history of some iterations."""
    file = HistoryFile(folder / 'history.arrows')
    for iteration in iterations:
        file.publish(record_at(iteration))
    if close:
        file.close()
    return file


class Training:
    """A context in which a run trains in a folder; ``stop`` kills it."""

    def __init__(self, folder: Path, pause: float = 0.2, iterations: int = 10_000) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.history = folder / 'history.arrows'
        self._command = [sys.executable, '-c', PROGRAM, str(folder), str(pause), str(iterations)]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Training:
        self._process = subprocess.Popen(self._command)
        while not self.history.exists() or not self.history.stat().st_size:
            assert self._process.poll() is None
            time.sleep(0.1)
        return self

    def stop(self) -> None:
        """Kill it, as a machine that goes down does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
