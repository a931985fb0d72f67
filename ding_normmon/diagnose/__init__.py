"""Rules over the records of a run, which say what goes wrong, with which task, since when, and what to try."""
