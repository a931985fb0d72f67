"""Rules that read the records of a run and report what goes wrong, in which task, since when, and what to try."""

from ding_normmon.diagnose.diagnosis import Diagnosis
from ding_normmon.diagnose.rule import Rule, Sign
from ding_normmon.diagnose.window import Window

__all__ = ['Diagnosis', 'Rule', 'Sign', 'Window']
