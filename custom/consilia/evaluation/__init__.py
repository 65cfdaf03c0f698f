"""Metrics of one split, forgetting over rounds, the summary of a run, comparison of runs."""
