"""Faults and prompts that Hypothesis draws, against the pack: a failure is made small and can be repeated."""
