"""Runs on disk: the history file of a run, and reading it, or event files of any program, back."""

from ding_normmon.runs.read import read_run
from ding_normmon.runs.run import MatrixSeries, Note, Run, RunError, Series

__all__ = ['MatrixSeries', 'Note', 'Run', 'RunError', 'Series', 'read_run']
